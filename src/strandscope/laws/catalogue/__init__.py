"""Laws that run on any machine in seconds, each with its negative control."""
