"""CAST-S with the segmentation stages of the published Segmenter model: 1,024 superpixels of a 512 x 512 crop."""

superpixels = "seeds:count=1024,bins=5,iterations=15"
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SuperpixelDataPreProcessor"),
    # --cfg-options model.backbone.weights=RUN starts from a run, a published file, or hf:USER/NAME.
    backbone=dict(type="CastEncoder", model="cast_small_dense", superpixels=superpixels, image_size=512),
    decode_head=dict(type="CastHead", head="segmenter", in_channels=384, num_classes=150),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(512, 512)),
)
