"""Says of a path that is no model of ours what it holds, and what may be given instead.

raise no_model("mobilenet")
# the model 'mobilenet' is a SavedModel of another program: it has no dc_tf.json; use ...
"""

import os

from dc_tf.errors import ConfigError

METADATA = "dc_tf.json"  # beside the SavedModel of an export
_USABLE = (
    "a SavedModel of 'dc_tf export' or 'dc_tf import_torch', or the folder of a run of 'dc_tf "
    "train'"
)
_FOREIGN = (
    "; networks of other programs are taken by 'dc_tf embed', whose features can be clustered with "
    "'dc_tf kmeans' as .npy files, and by 'dc_tf evaluate --task=knn'"
)
_OTHER = "export its run as a SavedModel, the default" + _FOREIGN
_ABSENT = ("does not exist", f"use {_USABLE}")
# What a file is, by its ending, and how its network may be used.
_FILES = {
    (".keras", ".h5", ".hdf5"): ("a Keras file", _OTHER),
    (".onnx",): ("an ONNX file", _OTHER),
    (".tflite",): ("a TFLite file", "export its run as a SavedModel, the default"),
    (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors"): (
        "a checkpoint file",
        "turn one of DeeperCluster in PyTorch into a SavedModel with 'dc_tf import_torch'",
    ),
}
# What a folder is, by a file in it.
_FOLDERS = {
    "saved_model.pb": f"is a SavedModel of another program: it has no {METADATA}",
    "manifest.json": "is a data set",
    "embed.json": "has features of 'dc_tf embed'",
    "clustering.json": "is the output of 'dc_tf kmeans'",
    "keras_metadata.pb": "is a Keras model",
    "config.json": "is a model of another program",
}


def check_exists(path: str) -> None:
    """Refuses a local path where nothing is, without TensorFlow; others are tried when opened.

    Raises:
        ConfigError: as `no_model`.
    """
    path = os.fspath(path)
    if "://" not in path and not os.path.exists(os.path.expanduser(path)):
        raise _error(path, *_ABSENT)


def no_model(path: str) -> ConfigError:
    """The error for a path that holds neither an exported model nor a run."""
    return _error(path, *_holds(path))


def _error(path, found, advice):
    return ConfigError(f"the model {path!r} {found}; {advice}.")


def _holds(path):
    import tensorflow as tf  # seconds, which `check_exists` does without

    if not tf.io.gfile.exists(path):
        return _ABSENT
    if not tf.io.gfile.isdir(path):
        return _file(path)
    for name, found in _FOLDERS.items():
        if tf.io.gfile.exists(os.path.join(path, name)):
            foreign = "another program" in found
            return found, f"use {_USABLE}{_FOREIGN if foreign else ''}"
    inner = _model_inside(path)
    if inner:
        return "is a folder of models", f"name one of them, such as {inner!r}"
    return "holds no model", f"use {_USABLE}"


def _file(path):
    if os.path.basename(path) in (METADATA, "saved_model.pb"):
        return "is a file of a SavedModel", "name its folder"
    for endings, (what, advice) in _FILES.items():
        if path.lower().endswith(endings):
            return f"is {what}", f"use {_USABLE}; {advice}"
    return "is a file", f"use {_USABLE}"


def _model_inside(path):
    import tensorflow as tf

    for name in sorted(tf.io.gfile.listdir(path))[:1000]:
        inner = os.path.join(path, name.rstrip("/"))
        if any(tf.io.gfile.exists(os.path.join(inner, n)) for n in (METADATA, "checkpoints")):
            return inner
    return None
