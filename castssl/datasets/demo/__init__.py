"""The embedded demo data set: ``dataset`` writes it, from scenes, objects and how they are painted."""
