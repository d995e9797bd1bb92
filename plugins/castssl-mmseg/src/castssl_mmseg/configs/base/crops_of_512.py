"""Segmenter's crops of 512 pixels of images whose shorter side has 512, for ADE20K; VOC has them, too."""

_base_ = "segmenter.py"
scale = (2048, 512)
crop_size = (512, 512)
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
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=(512, 512)),
)
