"""PASCAL VOC 2012 with the added labels (trainaug), 21 classes.

Segmenter's crops, scales, augmentation, optimizer, mask transformer and windows, which the released Segmenter code does
not have for VOC.  Of the VOC code released with CAST: 30,000 steps of 16 images, fixed positions, and superpixels of the
image as it is, not inverted.  Its two-layer head, scales of 0.5 to 1.5, learning rates by group and whole images at
evaluation are those of ``recipes/segment.py --head fused``.  Validation each 3,000 steps is castssl's choice.
"""

_base_ = "crops_of_512.py"
max_iters = 30_000
dataset = dict(type="PascalVOCDataset", data_root="data/VOCdevkit/VOC2012")
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassAug"),
        ann_file="ImageSets/Segmentation/trainaug.txt",
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
model = dict(decode_head=dict(num_classes=21))
train_cfg = dict(max_iters=max_iters, val_interval=3_000)
param_scheduler = [dict(_base_.poly, end=max_iters + 1)]
