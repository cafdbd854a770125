"""The parts of a batch that are computed one after the other."""

import numpy as np
import tensorflow as tf

from dc_tf.training.step.micro_batches import rejoined, split


class MicroBatchesTest(tf.test.TestCase):
    def test_every_part_has_equally_many_images_of_each_super_class(self):
        super_id = tf.repeat(tf.range(3), 8)
        for part in split(super_id, 4):
            self.assertAllEqual(np.bincount(part), [2, 2, 2])

    def test_rejoined_parts_are_in_the_order_before(self):
        batch = np.arange(48, dtype=np.float32).reshape(24, 2)
        for count in (1, 2, 4, 24):
            parts = split(batch, count)
            self.assertEqual(parts.shape, (count, 24 // count, 2))
            self.assertAllEqual(rejoined(parts, 24), batch)


if __name__ == "__main__":
    tf.test.main()
