"""Trained models on images: segmentations and predictions."""
