"""ViT-S and Segmenter's mask transformer on Cityscapes."""

_base_ = ["base/runtime.py", "base/vit_small.py", "base/cityscapes.py"]
model = dict(
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(sizes=(2304,), image_size=768),
    decode_head=dict(num_classes=19),
    test_cfg=dict(crop_size=(768, 768), stride=(512, 512)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
