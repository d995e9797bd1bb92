"""Measures on tensors: how well segments fit regions, and how right and how consistent label paths are."""
