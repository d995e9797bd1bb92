"""The settings of the Segmenter code released with CAST that all configs share, and mmengine's runtime.

What differs from the released code: images are normalized as castssl's encoders are trained, with ImageNet's mean in
three decimals; a padded strip has the mean color in 8 bits; epochs follow each other without a partial batch.  The
published ADE20K and Pascal Context models start from DeiT weights, whose positions are trained.
"""

custom_imports = dict(imports=["castssl_mmseg"], allow_failed_imports=False)
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SuperpixelDataPreProcessor"),
    # --cfg-options model.backbone.weights=RUN starts from a run, a published file, or hf:USER/NAME.
    backbone=dict(type="CastEncoder"),
    decode_head=dict(type="CastHead", head="segmenter", in_channels=384),
    train_cfg=dict(),
    test_cfg=dict(mode="slide"),
)

load = dict(type="LoadImageFromFile")
# A data set knows whether its label 0 is a class.
labels = dict(type="LoadAnnotations")
random_scale = dict(type="RandomResize", ratio_range=(0.5, 2.0), keep_ratio=True)
resize = dict(type="Resize", keep_ratio=True)
random_crop = dict(type="RandomCrop", cat_max_ratio=0.75)
augment = [dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion")]
# Here and not in the preprocessor, so that the padded strip has superpixels; blue, green, red.
pad = dict(type="Pad", pad_val=dict(img=(103.53, 116.28, 123.675), seg=255))
pack = dict(type="PackSegInputs")

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.0),
)
train_cfg = dict(type="IterBasedTrainLoop")
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
# A data set adds its number of steps, and 1: mmengine reaches the floor one step before the end.
poly = dict(type="PolyLR", eta_min=1e-5, power=0.9, begin=0, by_epoch=False)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=8000, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
