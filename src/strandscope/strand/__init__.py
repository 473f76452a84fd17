"""Strands: subspaces of a state space with their evidence. Tensors in, no network known here."""
