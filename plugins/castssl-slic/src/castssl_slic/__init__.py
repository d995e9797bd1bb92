"""SLIC superpixels for castssl: by fast-slic, by scikit-image, and on the device in batches."""
