"""A plugin of castssl."""
