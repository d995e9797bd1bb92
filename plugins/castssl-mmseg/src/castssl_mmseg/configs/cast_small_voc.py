"""CAST-S and Segmenter's mask transformer on PASCAL VOC 2012 with the added labels (trainaug)."""

_base_ = ["base/runtime.py", "base/cast_small.py", "base/voc.py"]
superpixels = "seeds:count=1024,bins=5,iterations=15"
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(superpixels=superpixels, sizes=(1024, 320, 160, 80, 40), image_size=512),
    decode_head=dict(num_classes=21),
    test_cfg=dict(crop_size=(512, 512), stride=(512, 512)),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline, dict(type="ComputeSuperpixels", superpixels=superpixels)],
    ),
)
