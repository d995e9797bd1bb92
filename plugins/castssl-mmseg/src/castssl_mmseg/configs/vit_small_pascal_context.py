"""ViT-S and Segmenter's mask transformer on Pascal Context, 60 classes."""

_base_ = ["base/runtime.py", "base/vit_small.py", "base/pascal_context.py"]
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(sizes=(900,), image_size=480),
    decode_head=dict(num_classes=60),
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
