"""Reads the arrays of a PyTorch checkpoint without running anything that is in the file.

    check_checkpoint("ours.pth")
    state = read_checkpoint("ours.pth")     # {"module.features.0.weight": array, ...}

The one place that needs PyTorch, which is an optional extra.
"""

import collections.abc
import hashlib
import os
import re
import warnings

from dc_tf.errors import ConfigError, DataError

# Where programs put the weights inside of what they save.
_PLACES = ("state_dict", "model")
_INSTALL = "pip install torch"
# Before it, a file could run code in spite of `weights_only` (CVE-2025-32434).
_SAFE_VERSION = (2, 6)


def check_checkpoint(path: str):
    """Raises ConfigError if the file or PyTorch is missing, or if that is too old."""
    if not os.path.isfile(path):
        raise ConfigError(f"there is no file {path!r}; name a checkpoint of PyTorch.")
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"reading a checkpoint needs PyTorch; its CPU build is enough: {_INSTALL}"
        ) from error
    if torch.__version__ < _SAFE_VERSION:
        raise ConfigError(
            f"PyTorch {torch.__version__} cannot read files of others safely; use 2.6 or later."
        )


def read_checkpoint(path: str) -> dict:
    """The tensors in a checkpoint file.

    Args:
        path: local file: a mapping of names to tensors, or a mapping that has one as `state_dict`
            or `model`.

    Returns:
        {key: array}, sharing memory with the tensors.

    Raises:
        ConfigError: as `check_checkpoint`.
        DataError: the file is not a checkpoint, or holds more than data.
    """
    check_checkpoint(path)
    import torch

    content = _load(torch, path)
    for place in _PLACES:
        if _is_mapping(content) and _is_mapping(content.get(place)):
            content = content[place]
    tensors = _tensors(torch, content)
    if not tensors:
        raise DataError(f"{path!r} holds no named tensors, but {type(content).__name__}.")
    _check_size(path, tensors)
    return {key: _array(path, key, tensor) for key, tensor in tensors.items()}


def digest(path: str) -> str:
    """SHA-256 of a file, hexadecimal: which of the released files it is."""
    sha = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _load(torch, path):
    try:
        with warnings.catch_warnings():  # of PyTorch, for people who wrote the file themselves
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A file that is anything else can fail in any way.
        # PyTorch's own advice would be to run what is in the file.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise DataError(
                f"{path!r} holds {foreign[1]!r} and is not read, since that could run its author's "
                "code; whoever trusts the file can load it and save its state_dict alone."
            ) from error
        raise DataError(f"{path!r} is damaged, or no checkpoint of PyTorch.") from error


def _is_mapping(value):
    return isinstance(value, collections.abc.Mapping)


def _tensors(torch, content):
    named = content.items() if _is_mapping(content) else ()
    return {str(key): value for key, value in named if isinstance(value, torch.Tensor)}


def _check_size(path, tensors):
    """Few bytes can stand for many, by strides of 0, which would fill the memory when copied."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > os.path.getsize(path):
        raise DataError(f"{path!r} claims {size} bytes of tensors, more than the file has.")


def _array(path, key, tensor):
    try:
        return tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{key!r} in {path!r} is {tensor.dtype}; expected float32.") from error
