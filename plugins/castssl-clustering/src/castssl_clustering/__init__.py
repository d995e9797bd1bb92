"""Poolings that cluster tokens; one file an operator."""
