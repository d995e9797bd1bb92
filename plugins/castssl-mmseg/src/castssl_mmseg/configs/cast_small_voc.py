"""CAST-S and Segmenter's mask transformer on PASCAL VOC 2012 with the added labels (trainaug)."""

_base_ = ["base/voc.py", "base/cast_small.py"]
superpixels = f"seeds:count=1024,{_base_.seeds}"
model = dict(
    backbone=dict(
        _base_.encoder,
        superpixels=superpixels,
        sizes=(1024, *_base_.stages),
        positions="sincos",
        image_size=512,
    ),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline, dict(type="ComputeSuperpixels", superpixels=superpixels)],
    ),
)
