"""Visual features from images that nobody labelled: DeeperCluster in TensorFlow."""

__version__ = "0.1.0"
