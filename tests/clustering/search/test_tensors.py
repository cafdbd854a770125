"""Arrays and tensors that share memory."""

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.clustering.aligned import aligned_empty
from dc_tf.clustering.search.tensors import as_array, as_tensor

pytestmark = pytest.mark.numeric


class AsTensorTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(np.float16, np.float32, np.float64)
    def test_aligned_rows_are_not_copied(self, dtype):
        rows = aligned_empty((5, 3), dtype)
        rows[:] = 1
        tensor = as_tensor(rows)
        rows[2, 1] = 7
        self.assertEqual(tensor[2, 1], 7)

    def test_others_are(self):
        rows = aligned_empty((5, 3), np.float32)
        rows.flags.writeable = False
        for each in (rows, rows[1:], rows[:, :2], rows.astype(">f4")):
            self.assertAllEqual(as_tensor(each), each)


class AsArrayTest(tf.test.TestCase):
    def test_is_the_memory_and_outlives_the_tensor(self):
        tensor = tf.random.stateless_normal((300, 200), [0, 1])
        expected = tensor.numpy()
        array = as_array(tensor)
        self.assertTrue(np.shares_memory(array, np.asarray(tensor)))
        # What NumPy does not copy before it looks for the largest.
        self.assertTrue(array.flags.carray)
        del tensor
        others = [tf.zeros((300, 200)) for _ in range(20)]
        self.assertAllEqual(array, expected)
        self.assertLen(others, 20)

    def test_shows_bits(self):
        tensor = tf.constant([[1.0, -2.0]], tf.bfloat16)
        self.assertAllEqual(as_array(tensor, np.uint16), [[0x3F80, 0xC000]])


if __name__ == "__main__":
    tf.test.main()
