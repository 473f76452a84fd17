"""Laws: a formula with a domain, a prediction made before its test, a negative control, and a verdict it can lose."""
