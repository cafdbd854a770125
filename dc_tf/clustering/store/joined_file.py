"""Joins arrays that lie in several `.npy` files, one behind the other, into one.

atomic.write_file("labels.npy", lambda file: write_joined(file, ["part-0.npy", "part-1.npy"]))
"""

import numpy as np

_COPY_BYTES = 64 << 20


def write_joined(file, paths) -> None:
    """Writes the arrays along their first axis as one `.npy`; memory does not depend on their size.

    Args:
        file: opened binary file.
        paths: of at least one `.npy` file; equal dtypes and shapes but for the first axis.
    """
    parts = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    rows = sum(map(len, parts))
    header = np.lib.format.header_data_from_array_1_0(parts[0])
    header |= {"fortran_order": False, "shape": (rows, *parts[0].shape[1:])}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        step = max(1, _COPY_BYTES // max(1, part[:1].nbytes))
        for start in range(0, len(part), step):
            file.write(np.ascontiguousarray(part[start : start + step]).data)
