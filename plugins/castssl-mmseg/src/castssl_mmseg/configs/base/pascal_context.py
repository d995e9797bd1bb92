"""Pascal Context, 60 classes, with the settings of the Segmenter code released with CAST: 256 epochs of 4,996 images in batches of 16."""

_base_ = "segmenter.py"
max_iters = 80_128
scale = (4160, 520)
crop_size = (480, 480)
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
    decode_head=dict(num_classes=60),
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=(320, 320)),
)
dataset = dict(
    type="PascalContextDataset",
    data_root="data/VOCdevkit/VOC2010",
    data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext"),
)
train_dataloader = dict(
    batch_size=16,
    dataset=dict(dataset, ann_file="ImageSets/SegmentationContext/train.txt", pipeline=train_pipeline),
)
val_dataloader = dict(
    dataset=dict(dataset, ann_file="ImageSets/SegmentationContext/val.txt", pipeline=test_pipeline),
)
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
# Eight epochs.
train_cfg = dict(max_iters=max_iters, val_interval=2_504)
param_scheduler = [dict(_base_.poly, end=max_iters + 1)]
