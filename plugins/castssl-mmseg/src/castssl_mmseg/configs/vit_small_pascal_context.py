"""ViT-S and Segmenter's mask transformer on Pascal Context, 60 classes."""

_base_ = ["base/pascal_context.py", "base/vit_small.py"]
model = dict(backbone=dict(_base_.encoder, sizes=(900,), image_size=480))
