"""CAST-S and Segmenter's mask transformer on Pascal Context, 60 classes."""

_base_ = ["base/runtime.py", "base/cast_small.py", "base/pascal_context.py"]
superpixels = "seeds:count=900,bins=5,iterations=15"
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(superpixels=superpixels, sizes=(900, 320, 160, 80, 40), image_size=480),
    decode_head=dict(num_classes=60),
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline, dict(type="ComputeSuperpixels", superpixels=superpixels)],
    ),
)
