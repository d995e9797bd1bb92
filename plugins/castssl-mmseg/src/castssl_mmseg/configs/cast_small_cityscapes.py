"""CAST-S and Segmenter's mask transformer on Cityscapes."""

_base_ = ["base/runtime.py", "base/cast_small.py", "base/cityscapes.py"]
superpixels = "seeds:count=2304,bins=5,iterations=15"
model = dict(
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(superpixels=superpixels, sizes=(2304, 320, 160, 80, 40), image_size=768),
    decode_head=dict(num_classes=19),
    test_cfg=dict(crop_size=(768, 768), stride=(512, 512)),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline, dict(type="ComputeSuperpixels", superpixels=superpixels)],
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
