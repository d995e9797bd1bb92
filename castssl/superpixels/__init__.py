"""The room `superpixels`."""
