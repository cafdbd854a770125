"""Writes arrays as a safetensors file.

    write_safetensors({"conv1.weight": array}, "mine.safetensors", {"format": "pt"})

Eight bytes with the length of a JSON header, the header with type, shape and place of each array,
then their bytes. Reference: https://github.com/huggingface/safetensors, section "Format".
"""

import json

import numpy as np

_TYPES = {"float32": "F32", "float16": "F16", "int64": "I64"}


def write_safetensors(arrays: dict, path: str, about: dict[str, str]) -> None:
    """Writes a file.

    Args:
        arrays: {name: float32, float16 or int64 array}.
        path: of a local file.
        about: {name: text} that the file carries.
    """
    header, place = {"__metadata__": about}, 0
    for name, array in arrays.items():
        end = place + array.nbytes
        kind = _TYPES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
