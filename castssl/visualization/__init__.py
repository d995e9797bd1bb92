"""Images of hierarchies, label paths and partitions."""
