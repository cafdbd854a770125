"""Visual features from images that nobody labelled: DeeperCluster in TensorFlow."""

import os

from dc_tf import kernels

__version__ = "0.1.0"

# TensorFlow reads this when it is imported, and tf-models-official and tensorflow-hub follow it:
# Keras 2, as in `keras.py`. Without it Keras 3 is loaded as well, which takes a second more.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# Also before TensorFlow is imported, by whatever way of the package.
KERNELS = kernels.choose()
