import numpy as np
import pytest
import tensorflow as tf

from dc_tf.nn.losses import cross_entropy, hierarchical, product

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]

SUPERS, SUBS, BATCH = 3, 4, 6


def batch():
    random = np.random.default_rng(3)
    pairs = random.normal(0, 2, (BATCH, SUPERS * SUBS)).astype(np.float32)
    ids = [random.integers(0, n, BATCH).astype(np.int32) for n in (SUPERS, SUBS)]
    return tf.constant(pairs), *ids


class LossesTest(tf.test.TestCase):
    def test_the_product_is_one_softmax_over_all_pairs(self):
        logits, super_ids, sub_ids = batch()
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = -np.log(p[np.arange(BATCH), super_ids * SUBS + sub_ids])
        self.assertAllClose(product(logits, SUPERS, super_ids, sub_ids).loss, expected, rtol=1e-5)

    def test_a_pair_is_a_super_class_and_a_sub_class_inside_it(self):
        logits, super_ids, sub_ids = batch()
        loss, super_logits, sub_logits = product(logits, SUPERS, super_ids, sub_ids)
        apart = cross_entropy(super_logits, super_ids) + cross_entropy(sub_logits, sub_ids)
        self.assertAllClose(loss, apart, rtol=1e-5)
        # So the hierarchy with these logits is the same loss; only its weights are others.
        self.assertAllClose(
            hierarchical(super_logits, sub_logits, super_ids, sub_ids).loss, loss, rtol=1e-5
        )

    def test_the_hierarchy_is_the_sum_of_both_cross_entropies(self):
        random = np.random.default_rng(0)
        v, w = random.normal(size=(6, 8)).astype("f"), random.normal(size=(6, 5)).astype("f")
        y, z = np.int32([0, 1, 7, 3, 2, 2]), np.int32([4, 0, 1, 2, 3, 4])

        def by_hand(logits, ids):
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            return -np.log(p[np.arange(6), ids])

        loss = hierarchical(v, w, y, z).loss
        self.assertAllClose(loss, by_hand(v, y) + by_hand(w, z), rtol=1e-5)

    def test_one_super_class_costs_nothing(self):
        w, z = tf.zeros([3, 5]), np.int32([1, 2, 3])
        loss = hierarchical(tf.ones([3, 1]), w, np.int32([0, 0, 0]), z).loss
        self.assertAllClose(loss, [np.log(5)] * 3)

    def test_without_sub_classes_the_hierarchy_is_the_super_class_alone(self):
        logits, super_ids, sub_ids = batch()
        loss, _, sub_logits = hierarchical(logits[:, :SUPERS], None, super_ids, sub_ids)
        self.assertAllClose(loss, cross_entropy(logits[:, :SUPERS], super_ids))
        self.assertIsNone(sub_logits)


if __name__ == "__main__":
    tf.test.main()
