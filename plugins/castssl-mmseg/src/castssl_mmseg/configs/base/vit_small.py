"""ViT-S on patches of 16 pixels, with CAST's fusion: the baseline of CAST's Table 3; stochastic depth is Segmenter's."""

encoder = dict(model="vit_small_seg", positions="learned", drop_path=0.1)
