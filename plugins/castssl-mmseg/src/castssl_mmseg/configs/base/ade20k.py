"""ADE20K, 150 classes, with the settings of the Segmenter code released with CAST: 64 epochs of 20,210 images in batches of 8."""

_base_ = "crops_of_512.py"
max_iters = 161_728
dataset = dict(type="ADE20KDataset", data_root="data/ade/ADEChallengeData2016")
train_dataloader = dict(
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
model = dict(decode_head=dict(num_classes=150))
# Two epochs.
train_cfg = dict(max_iters=max_iters, val_interval=5_054)
param_scheduler = [dict(_base_.poly, end=max_iters + 1)]
