"""The server behind the bench: one network, many readers, each with edits and monitors of his own."""
