"""Chunks and tiles: within the memory there is, and not larger than is fast."""

from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from dc_tf.clustering.search import tiles
from dc_tf.clustering.search.tiles import tile_shape, transit_bytes

SHAPES = ((4, 4096), (80_000, 4096), (1000, 64), (100_000, 64), (2, 8))


class TilesTest(tf.test.TestCase, parameterized.TestCase):
    def test_tiles_are_of_equal_size(self):
        self.assertEqual(tile_shape(4, 64, 4, 1 << 28).centroids, 4)
        self.assertEqual(tile_shape(4096 + 2, 64, 4, 1 << 28).centroids, 1366)

    @parameterized.product(memory=(1 << 22, 1 << 28, 1 << 31), on_gpu=(False, True))
    def test_memory_bounds_a_call_whatever_k_and_dim(self, memory, on_gpu):
        for k, dim in SHAPES:
            shape = tile_shape(k, dim, 4, memory, on_gpu)
            self.assertGreaterEqual(shape.rows, 16)
            if shape.rows > 16:
                self.assertLessEqual(shape.rows * (12 * dim + 4 * shape.centroids), memory)

    def test_more_memory_is_used_on_a_gpu_and_only_there(self):
        for k, dim in SHAPES[:2]:
            small, large = (tile_shape(k, dim, 2, 1 << n, on_gpu=True).rows for n in (26, 31))
            self.assertGreater(large, 4 * small)
        small, large = (tile_shape(80_000, 64, 4, 1 << n).rows for n in (26, 31))
        self.assertEqual(large, small)

    def test_a_gpu_has_powers_of_two_so_that_few_shapes_are_compiled(self):
        for k, dim in SHAPES:
            rows = tile_shape(k, dim, 2, 10**9, on_gpu=True).rows
            self.assertEqual(rows & (rows - 1), 0)

    @parameterized.parameters(
        (64 << 30, 256 << 20),  # ample
        (2000 << 20, 128 << 20),  # an eighth, and a power of two
        (1 << 20, 1 << 20),
    )
    def test_a_host_with_less_memory_takes_smaller_chunks(self, free, expected):
        with mock.patch.object(tiles, "free_memory", lambda: free):
            self.assertEqual(transit_bytes.__wrapped__(False), expected)

    @parameterized.parameters(
        ([80 << 30], 2 << 30), ([80 << 30, 12 << 30], 512 << 20), ([], 128 << 20)
    )
    def test_a_gpu_with_less_memory_takes_smaller_chunks(self, total, expected):
        with mock.patch.object(tiles, "gpu_memory", lambda what: total):
            self.assertEqual(transit_bytes.__wrapped__(True), expected)


if __name__ == "__main__":
    tf.test.main()
