"""Cityscapes, with the settings of the Segmenter code released with CAST: 216 epochs of 2,975 images in batches of 8."""

crop_size = (768, 768)
data_root = "data/cityscapes"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    # Here and not in the preprocessor, so that the padded strip has superpixels; blue, green, red.
    dict(type="Pad", size=crop_size, pad_val=dict(img=(103.53, 116.28, 123.675), seg=255)),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="LoadAnnotations"),
    # Without ComputeSuperpixels: the backbone computes those of each window, as published.
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80_352, val_interval=8_000)
param_scheduler = [dict(type="PolyLR", eta_min=1e-5, power=0.9, begin=0, end=80_352, by_epoch=False)]
