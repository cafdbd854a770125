"""What a path to a network holds, and a digest of its files.

kind_of("mobilenet.keras")              # "Keras 2", "Keras 3"
local_path("https://tfhub.dev/google/imagenet/mobilenet_v2_100_96/feature_vector/5")
digest_of(["resnet.onnx"])
"""

import hashlib
import json
import os
import zipfile

from dc_tf.data.storage.manifest import checksum
from dc_tf.errors import ConfigError, DataError

SAVED_MODEL, KERAS_2, KERAS_3, ONNX = "SavedModel", "Keras 2", "Keras 3", "ONNX"
ADDRESSES = ("http://", "https://")
_BLOCK = 1 << 20
_HDF5 = (".h5", ".hdf5")


def is_address(path) -> bool:
    """Whether a path is the handle of a network on a server."""
    return os.fspath(path).startswith(ADDRESSES)


def is_export(path) -> bool:
    """Whether a folder is a SavedModel of this package, which has its settings beside it."""
    return os.path.isfile(os.path.join(path, "dc_tf.json"))


def kind_of(path: str) -> str | None:
    """The kind of a network's file or folder; None if it is no network of another program.

    Raises:
        ConfigError: a file without a network, such as one of weights alone.
        DataError: a corrupt file.
    """
    if is_address(path):
        return SAVED_MODEL
    name = path.lower()
    if os.path.isdir(path):
        is_model = os.path.isfile(os.path.join(path, "saved_model.pb"))
        return SAVED_MODEL if is_model and not is_export(path) else None
    if not os.path.isfile(path):
        return None
    if name.endswith(".weights.h5"):
        raise ConfigError(
            f"{path} has weights alone; give a file of the whole model, of model.save() or export."
        )
    if name.endswith(".onnx"):
        return ONNX
    if name.endswith((".keras", *_HDF5)):
        return KERAS_3 if _keras_version(path).startswith("3") else KERAS_2
    return None


def _keras_version(path) -> str:
    try:
        if path.lower().endswith(_HDF5):
            import h5py

            with h5py.File(path, "r") as file:
                return _text(file.attrs.get("keras_version", "2"))
        with zipfile.ZipFile(path) as file:
            return str(json.loads(file.read("metadata.json"))["keras_version"])
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no file of Keras that can be read ({error!r}); write it with model.save() "
            "or copy it again."
        ) from error


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def local_path(path: str) -> str:
    """A path on this machine: of an address, what TensorFlow Hub has fetched, or fetches now.

    Raises:
        ConfigError: `tensorflow_hub` is missing.
        DataError: nothing can be fetched from there.
    """
    if not is_address(path):
        return os.path.expanduser(path)
    try:
        import tensorflow_hub as hub
    except ImportError as error:
        raise ConfigError(
            f"{path} is fetched by the package tensorflow-hub, which is missing; install it with "
            "'pip install tensorflow-hub', or give the folder of a SavedModel."
        ) from error
    try:
        return hub.resolve(path)
    except Exception as error:  # of any protocol
        raise DataError(
            f"{path} cannot be fetched: {str(error).strip().splitlines()[0]}; give a folder where "
            "there is no network."
        ) from error


def digest_of(paths) -> str:
    """Digest of files, and of all files in folders: "sha256:..."; names count, folders above not.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        base = os.path.dirname(path)
        for file in _files(path):
            digest.update(os.path.relpath(file, base).encode() + b"\0")
            try:
                with open(file, "rb") as opened:
                    while block := opened.read(_BLOCK):
                        digest.update(block)
            except OSError as error:
                raise DataError(
                    f"{file} cannot be read ({error}); check its permissions, or copy the network "
                    "again."
                ) from error
    return checksum(digest)


def _files(path):
    """The files of a path, sorted."""
    if os.path.isfile(path):
        return [path]
    return sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
    )
