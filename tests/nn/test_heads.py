import numpy as np
import pytest
import tensorflow as tf

from dc_tf.nn.heads import LinearHead

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]


class HeadsTest(tf.test.TestCase):
    def test_heads_start_as_their_initializer_says(self):
        head = LinearHead(400, 300)
        head.reset(np.random.default_rng(0))
        self.assertAllInRange(head.kernel, -0.05, 0.05)
        self.assertAllClose(np.std(head.kernel), 0.05 / np.sqrt(3), rtol=0.02)
        normal = LinearHead(400, 300, "normal")
        normal.reset(np.random.default_rng(0))
        self.assertAllClose(np.std(normal.kernel), 0.01, rtol=0.02)
        self.assertAllEqual(normal.bias, np.zeros(300))
        with self.assertRaisesRegex(ValueError, "'zeros'"):
            LinearHead(2, 2, "zeros")


if __name__ == "__main__":
    tf.test.main()
