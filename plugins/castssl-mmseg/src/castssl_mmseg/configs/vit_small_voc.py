"""ViT-S and Segmenter's mask transformer on PASCAL VOC 2012 with the added labels (trainaug)."""

_base_ = ["base/runtime.py", "base/vit_small.py", "base/voc.py"]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(sizes=(1024,), image_size=512),
    decode_head=dict(num_classes=21),
    test_cfg=dict(crop_size=(512, 512), stride=(512, 512)),
)
