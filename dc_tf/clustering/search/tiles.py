"""Chooses how many rows and centroids one product takes: fast, within the memory limit.

On a CPU, scores should stay in the cache until the arg-max reads them. On a GPU, a product should
be large enough to hide its launch.

    shape = tile_shape(k, dim, item_bytes=4, memory_bytes=transit_bytes())
    shape.rows, shape.centroids
"""

import dataclasses
import functools

from dc_tf.memory import free_memory, gpu_memory

# OpenBLAS computes products of no more multiplications in the calling thread. Its other threads
# would compete for the cores where several threads multiply.
BLAS_ALONE = 1 << 18

_CPU_BYTES = 256 << 20
_GPU_BYTES = 2 << 30
# Shares of free host memory and of all GPU memory, which TensorFlow reserves at its start, so that
# nothing of it is free.
_CPU_SHARE = 1 / 8
_GPU_SHARE = 1 / 16

# Centroids of a tile; larger tiles are no faster.
_CPU_TILE = 2048
_GPU_TILE = 8192
# Scores of a call on a CPU: what three threads keep in its cache, but more for long rows, whose
# product is worth packing its factors only for many rows.
_SCORE_BYTES = 8 << 20
_MAX_SCORE_BYTES = 32 << 20
_MIN_ROWS = 16
_MAX_ROWS = 32768


@dataclasses.dataclass(frozen=True)
class TileShape:
    """Size of one product.

    Attributes:
        rows: of a chunk; on a GPU a power of two.
        centroids: of a tile.
    """

    rows: int
    centroids: int


def tile_shape(k, dim, item_bytes, memory_bytes, on_gpu=False) -> TileShape:
    """The chunks and tiles for `k` centroids of `dim` components.

    A row of a chunk exists as it was read, in float32 and as a factor of the product (12 bytes a
    component), and has a score for each centroid of a tile.

    Args:
        k, dim: of the centroids.
        item_bytes: size of a score.
        memory_bytes: bound for the temporaries of one chunk; 16 rows are taken in any case.
        on_gpu: whether the products are done on a GPU.
    """
    tiles = -(-k // (_GPU_TILE if on_gpu else _CPU_TILE))
    centroids = -(-k // tiles)
    rows = min(_MAX_ROWS, memory_bytes // (12 * dim + 4 * centroids))
    if on_gpu:
        rows = 1 << max(0, int(rows).bit_length() - 1)
    else:
        score_bytes = min(_SCORE_BYTES * max(1.0, dim / 256) ** 1.5, _MAX_SCORE_BYTES)
        rows = min(rows, int(score_bytes) // (item_bytes * centroids))
    return TileShape(max(_MIN_ROWS, rows), centroids)


@functools.cache
def transit_bytes(on_gpu: bool = False) -> int:
    """Bound in bytes for the rows being assigned, and their scores, on this worker.

    A power of two, so that a restarted worker gets the same, and with the same tiles the same
    digits.
    """
    if on_gpu:
        share, most = min(gpu_memory("total"), default=_GPU_BYTES) * _GPU_SHARE, _GPU_BYTES
    else:
        share, most = free_memory() * _CPU_SHARE, _CPU_BYTES
    return min(most, 1 << max(20, int(share).bit_length() - 1))
