"""The built-in segmenters: an image to label maps, fine to coarse."""
