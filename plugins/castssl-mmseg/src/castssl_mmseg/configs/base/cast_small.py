"""CAST-S with the segmentation stages of the released Segmenter and VOC code; a crop has a superpixel for each 256 pixels.

``mode=segmenter`` in a config: the released Segmenter code inverts images before SEEDS, in training and at evaluation.
"""

seeds = "bins=5,iterations=15"
stages = (320, 160, 80, 40)
encoder = dict(model="cast_small_dense", positions="learned")
