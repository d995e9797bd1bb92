"""ViT-S and Segmenter's mask transformer on ADE20K."""

_base_ = ["base/ade20k.py", "base/vit_small.py"]
model = dict(backbone=dict(_base_.encoder, sizes=(1024,), image_size=512))
