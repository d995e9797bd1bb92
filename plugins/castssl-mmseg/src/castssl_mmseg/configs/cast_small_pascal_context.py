"""CAST-S and Segmenter's mask transformer on Pascal Context, 60 classes."""

_base_ = ["base/pascal_context.py", "base/cast_small.py"]
superpixels = f"seeds:count=900,{_base_.seeds},mode=segmenter"
model = dict(
    backbone=dict(
        _base_.encoder,
        superpixels=superpixels,
        sizes=(900, *_base_.stages),
    ),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline, dict(type="ComputeSuperpixels", superpixels=superpixels)],
    ),
)
