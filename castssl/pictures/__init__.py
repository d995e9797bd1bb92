"""The room `pictures`."""
