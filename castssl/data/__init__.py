"""Images into batches of raw views, and raw views into views."""
