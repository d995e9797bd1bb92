"""CAST-S and Segmenter's mask transformer on Cityscapes."""

_base_ = ["base/cityscapes.py", "base/cast_small.py"]
superpixels = f"seeds:count=2304,{_base_.seeds},mode=segmenter"
model = dict(
    backbone=dict(
        _base_.encoder,
        superpixels=superpixels,
        sizes=(2304, *_base_.stages),
    ),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline, dict(type="ComputeSuperpixels", superpixels=superpixels)],
    ),
)
