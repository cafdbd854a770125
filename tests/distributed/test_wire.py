"""Sums and rows that travel in bfloat16 have the error that `wire` states, the same everywhere."""

import ml_dtypes
import numpy as np
import tensorflow as tf
import workers

from dc_tf.distributed.collectives import Collective, Link, PackedGather, Solo
from dc_tf.distributed.wire import wire

# Largest relative error of a number that is rounded to bfloat16, which has 8 significant bits.
ROUNDOFF = 2.0**-8
LENGTHS = (1, 5, 64)  # fewer than workers, not divisible, divisible


def _terms(rank, length):
    """Numbers of many magnitudes and both signs."""
    random = np.random.default_rng((rank, length))
    return (random.standard_normal(length) * 10.0 ** random.integers(-6, 6, length)).astype("f4")


def _sums(cluster):
    comm = wire(cluster.world, "bfloat16")
    return [comm.all_sum(tf.constant(_terms(cluster.rank, length))).numpy() for length in LENGTHS]


def _others(cluster):
    """What passes unrounded, and what is not finite."""
    comm = wire(cluster.world, "bfloat16")
    half = tf.constant([cluster.rank / 8], tf.float16)
    broken = np.float32([[1, np.inf, 1, np.nan], [1, 1, -np.inf, 1]][cluster.rank])
    return (
        comm.all_sum(tf.constant([2**40 + cluster.rank], tf.int64)).numpy(),
        comm.gather(half).numpy(),
        comm.all_sum(tf.constant(broken)).numpy(),
    )


def _rows(cluster, dtype, pack_bytes, wire_dtype):
    """Two matrices of three rows, gathered in messages of `pack_bytes`."""
    matrices = [tf.constant(_matrix(cluster.rank, columns), dtype) for columns in (4, 7)]
    comm = wire(cluster.world, wire_dtype)

    @tf.function
    def gathered():
        return PackedGather(matrices, comm, pack_bytes).results()

    return [tf.cast(rows, tf.float32).numpy() for rows in gathered()]


def _matrix(rank, columns):
    return _terms(rank, 3 * columns).reshape(3, columns).clip(-1e4, 1e4)


class Bfloat16Test(tf.test.TestCase):
    def test_a_sum_is_within_the_stated_bound_and_has_the_same_bits_on_all_workers(self):
        sums = workers.on_cluster(4, _sums)
        for place, length in enumerate(LENGTHS):
            terms = np.stack([_terms(rank, length) for rank in range(4)]).astype(np.float64)
            exact = terms.sum(0)
            bound = ROUNDOFF * (1 + ROUNDOFF) * np.abs(terms).sum(0) + ROUNDOFF * np.abs(exact)
            found = [one[place] for one in sums]
            self.assertAllLessEqual(np.abs(found[0] - exact) / (1.001 * bound), 1.0)
            for other in found[1:]:
                self.assertAllEqual(other, found[0])
            rounded = found[0].astype(ml_dtypes.bfloat16).astype(np.float32)
            self.assertAllEqual(rounded, found[0])

    def test_other_types_pass_and_what_is_not_finite_stays_so(self):
        for whole, half, broken in workers.on_cluster(2, _others):
            self.assertAllEqual(whole, [2**41 + 1])
            self.assertAllEqual(half, [[0], [1 / 8]])
            self.assertAllEqual(np.isfinite(broken), [True, False, False, False])

    def test_alone_or_in_float32_the_group_itself_exchanges(self):
        alone = Solo()
        self.assertIs(wire(alone, "bfloat16"), alone)
        self.assertIs(wire(alone, "float32"), alone)


class Nccl:
    """A group without an all-to-all, all members of which are here."""

    rank, has_all_to_all = 0, False

    def __init__(self, terms):
        self.size, self.terms = len(terms), terms

    def all_sum(self, tensor):
        del tensor
        return tf.add_n([tf.constant(term) for term in self.terms])

    def gather(self, tensor):
        return tf.stack([tf.cast(term, tensor.dtype) for term in self.terms])


class NcclTest(tf.test.TestCase):
    def test_few_members_round_each_term_once_and_many_round_none(self):
        for size in (2, 3, 4):
            terms = [_terms(rank, 64) for rank in range(size)]
            found = wire(Nccl(terms), "bfloat16").all_sum(tf.constant(terms[0]))
            if size < 4:
                terms = [term.astype(ml_dtypes.bfloat16).astype(np.float32) for term in terms]
            self.assertAllClose(found, np.sum(terms, 0), rtol=1e-6, atol=0.5)

    def test_a_group_over_nccl_refuses_an_all_to_all(self):
        order = tf.Variable(0)
        for hint, able in (("nccl", False), ("ring", True)):
            group = Collective(0, 2, 7, Link("/device:CPU:0", hint, order))
            self.assertEqual(group.has_all_to_all, able)
        with self.assertRaisesRegex(RuntimeError, "no all-to-all over NCCL; use all_sum or"):
            Collective(0, 2, 7, Link("/device:GPU:0", "nccl", order)).all_to_all([[1.0], [2.0]])


class GatherTest(tf.test.TestCase):
    def test_rows_of_all_workers_come_in_their_order_whatever_the_messages(self):
        for dtype in (tf.float32, tf.float16, tf.bfloat16):
            for pack_bytes in (20, 1 << 20):
                for found in workers.on_cluster(2, _rows, dtype, pack_bytes, "float32"):
                    for rows, columns in zip(found, (4, 7), strict=True):
                        expected = np.concatenate([_matrix(rank, columns) for rank in (0, 1)])
                        self.assertAllEqual(rows, tf.cast(tf.cast(expected, dtype), tf.float32))

    def test_on_a_bfloat16_wire_each_number_is_rounded_once(self):
        for found in workers.on_cluster(2, _rows, tf.float32, 1 << 20, "bfloat16"):
            expected = np.concatenate([_matrix(rank, 4) for rank in (0, 1)])
            self.assertAllEqual(found[0], expected.astype(ml_dtypes.bfloat16).astype(np.float32))


if __name__ == "__main__":
    tf.test.main()
