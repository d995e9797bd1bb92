"""Segment Anything (SAM) as a segmenter."""
