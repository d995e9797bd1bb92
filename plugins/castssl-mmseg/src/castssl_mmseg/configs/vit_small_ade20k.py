"""ViT-S and Segmenter's mask transformer on ADE20K."""

_base_ = ["base/runtime.py", "base/vit_small.py", "base/ade20k.py"]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(sizes=(1024,), image_size=512),
    decode_head=dict(num_classes=150),
    test_cfg=dict(crop_size=(512, 512), stride=(512, 512)),
)
