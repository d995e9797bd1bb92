"""ViT-S and Segmenter's mask transformer on PASCAL VOC 2012 with the added labels (trainaug)."""

_base_ = ["base/voc.py", "base/vit_small.py"]
model = dict(backbone=dict(_base_.encoder, sizes=(1024,), image_size=512, positions="sincos"))
