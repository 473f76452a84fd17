"""Pushing on a network along a strand, at a dose in nats."""
