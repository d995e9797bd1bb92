"""ViT-S on patches of 16 pixels, with the same fusion and head: the baseline of CAST's Table 3."""

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SuperpixelDataPreProcessor"),
    # --cfg-options model.backbone.weights=RUN starts from a run, a published file, or hf:USER/NAME.
    backbone=dict(type="CastEncoder", model="vit_small_seg", sizes=(1024,), image_size=512),
    decode_head=dict(type="CastHead", head="segmenter", in_channels=384, num_classes=150),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(512, 512)),
)
