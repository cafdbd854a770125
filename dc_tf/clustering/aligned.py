"""NumPy arrays aligned as TensorFlow aligns its tensors.

rows = aligned_empty((1024, 64), np.float16)    # `tensors.as_tensor` need not copy it
"""

import numpy as np

# TensorFlow ends the process for a tensor that lies otherwise (EIGEN_MAX_ALIGN_BYTES).
ALIGNMENT = 64


def aligned_empty(shape, dtype) -> np.ndarray:
    """`np.empty` at a multiple of ALIGNMENT."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)
