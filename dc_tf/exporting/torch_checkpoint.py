"""Reads the arrays of a PyTorch checkpoint without running code from the file, and writes one.

    write_checkpoint(state, "ours.pth")
    check_checkpoint("ours.pth")
    state = read_checkpoint("ours.pth")     # {"module.features.0.weight": array, ...}

Only this module requires PyTorch, which is an optional extra.
"""

import collections.abc
import hashlib
import os
import re
import types
import warnings

import numpy as np

from dc_tf.errors import ConfigError, DataError

# Keys under which programs save the weights.
_PLACES = ("state_dict", "model")
_INSTALL = "pip install torch"
# In earlier versions a file can run code in spite of `weights_only` (CVE-2025-32434).
_SAFE_VERSION = (2, 6)


def check_checkpoint(path: str) -> None:
    """Raises ConfigError if the file or PyTorch is missing, or if PyTorch is too old."""
    if not os.path.isfile(path):
        raise ConfigError(f"there is no file {path!r}; name a checkpoint of PyTorch.")
    torch = require_torch("reading")
    if torch.__version__ < _SAFE_VERSION:
        raise ConfigError(
            f"PyTorch {torch.__version__} cannot read untrusted files safely; use 2.6 or later."
        )


def require_torch(what: str) -> types.ModuleType:
    """PyTorch; raises ConfigError if it is missing, where `what` is "reading" or "writing"."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{what} a checkpoint needs PyTorch, which is missing; its CPU build is enough: "
            f"{_INSTALL}"
        ) from error
    return torch


def write_checkpoint(state: dict, path: str) -> None:
    """Writes {key: array} as a state_dict that `torch.load` reads."""
    import torch

    torch.save({key: torch.from_numpy(np.array(array)) for key, array in state.items()}, path)


def read_checkpoint(path: str) -> dict:
    """The tensors in a checkpoint file.

    Args:
        path: local file with a mapping of names to tensors, possibly under the key `state_dict` or
            `model`.

    Returns:
        {key: array}; the arrays share memory with the tensors.

    Raises:
        ConfigError: as in `check_checkpoint`.
        DataError: the file is not a checkpoint, or it contains code.
    """
    check_checkpoint(path)
    import torch

    content = _load(torch, path)
    for place in _PLACES:
        if _is_mapping(content) and _is_mapping(content.get(place)):
            content = content[place]
    tensors = _tensors(torch, content)
    if not tensors:
        raise DataError(
            f"{path!r} holds no named tensors, but {type(content).__name__}; save a state_dict."
        )
    _check_size(path, tensors)
    return {key: _array(path, key, tensor) for key, tensor in tensors.items()}


def digest(path: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _load(torch, path):
    try:
        with warnings.catch_warnings():  # PyTorch's warnings address the author of the file
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malformed file can raise anything
        # Replaces PyTorch's message, which advises running the code in the file.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise DataError(
                f"{path!r} holds {foreign[1]!r} and is not read, since that could run its author's "
                "code; if you trust the file, load it and save only its state_dict."
            ) from error
        raise DataError(f"{path!r} is corrupt, or no checkpoint of PyTorch.") from error


def _is_mapping(value):
    return isinstance(value, collections.abc.Mapping)


def _tensors(torch, content):
    named = content.items() if _is_mapping(content) else ()
    return {str(key): value for key, value in named if isinstance(value, torch.Tensor)}


def _check_size(path, tensors):
    """Rejects tensors larger than the file: strides of 0 would fill the memory when copied."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > os.path.getsize(path):
        raise DataError(f"{path!r} claims {size} bytes of tensors, more than the file has.")


def _array(path, key, tensor):
    try:
        return tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{key!r} in {path!r} is {tensor.dtype}; expected float32.") from error
