"""Segments become tokens: a convolutional stem, segment means, positions."""
