"""Visual features from images that nobody labelled: DeeperCluster in TensorFlow.

    import dc_tf

    dc_tf.convert("photos", "DATA")                                  # a folder of images
    experiment = dc_tf.load_experiment("quickstart", data={"path": "DATA"})
    dc_tf.pretrain(experiment, "RUN")
    dc_tf.export("RUN", "MODEL")
    features = dc_tf.embed("MODEL", "DATA", layer="conv4")           # (images, d) array
    clusters = dc_tf.kmeans(features, k=100)

`generate`, `open_dataset`, `sources_of`, `load_trunk`, `curate`, `evaluate`, `finetune`, `predict`,
`search`, `find_duplicates`, `write_clusters`, `assign`, `browse`, `write_report` and `run_sweep`
are the others; each has its own help, as `help(dc_tf.embed)`. They are imported, and TensorFlow
with them, when they are first used. The same from a shell: `dc_tf --help`.
"""

import importlib
import os

from dc_tf import kernels

__version__ = "0.1.0"

__all__ = [
    "assign",
    "browse",
    "convert",
    "curate",
    "embed",
    "evaluate",
    "export",
    "find_duplicates",
    "finetune",
    "generate",
    "kmeans",
    "load_experiment",
    "load_trunk",
    "open_dataset",
    "predict",
    "pretrain",
    "run_sweep",
    "search",
    "sources_of",
    "write_clusters",
    "write_report",
]

# TensorFlow reads this when it is imported, and tf-models-official and tensorflow-hub follow it:
# Keras 2, as in `keras.py`. Without it Keras 3 is loaded as well, which takes a second more.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# Also before TensorFlow is imported, by whatever way of the package.
KERNELS = kernels.choose()


def __getattr__(name):
    if name in __all__:
        return getattr(importlib.import_module("dc_tf.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
