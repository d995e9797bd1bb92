"""ViT-S and Segmenter's mask transformer on Cityscapes."""

_base_ = ["base/cityscapes.py", "base/vit_small.py"]
model = dict(backbone=dict(_base_.encoder, sizes=(2304,), image_size=768))
