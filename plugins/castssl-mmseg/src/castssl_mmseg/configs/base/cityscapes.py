"""Cityscapes, 19 classes, with the settings of the Segmenter code released with CAST: 216 epochs of 2,975 images in batches of 8.

CAST was not published on Cityscapes.
"""

_base_ = "segmenter.py"
max_iters = 80_352
scale = (2048, 1024)
crop_size = (768, 768)
train_pipeline = [
    _base_.load,
    _base_.labels,
    dict(_base_.random_scale, scale=scale),
    dict(_base_.random_crop, crop_size=crop_size),
    *_base_.augment,
    dict(_base_.pad, size=crop_size),
    _base_.pack,
]
# Without ComputeSuperpixels: the backbone computes those of each window, as published.
test_pipeline = [_base_.load, dict(_base_.resize, scale=scale), _base_.labels, _base_.pack]
model = dict(
    decode_head=dict(num_classes=19),
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=(512, 512)),
)
dataset = dict(type="CityscapesDataset", data_root="data/cityscapes")
train_dataloader = dict(
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
# Four epochs.
train_cfg = dict(max_iters=max_iters, val_interval=1_488)
param_scheduler = [dict(_base_.poly, end=max_iters + 1)]
