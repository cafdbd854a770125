"""Groups of real workers sum what they should, and groups do not disturb one another."""

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.distributed.collectives import (
    Solo,
    all_agree,
    all_gather,
    all_gather_json,
    all_sum_packed,
    direct_sum,
)


def _sums(cluster):
    rank = cluster.rank
    pair = cluster.group((0, 1) if rank < 2 else (2, 3))
    everyone = cluster.world.all_sum(np.float64([rank, 1])).numpy()
    in_pair = [pair.all_sum(np.int64(10**12 + rank + i)).numpy() for i in range(3)]
    counts = all_gather(rank * 5, cluster.world)
    assert all_gather([[0.5, rank]], cluster.world)[:, 0, 1].tolist() == [0, 1, 2, 3]
    names = all_gather_json({"name": "worker" * rank}, cluster.world)
    assert [len(one["name"]) for one in names] == [0, 6, 12, 18]
    block, spread = row_block(10, rank, 4), range(rank, 10, 4)
    for places in (block, spread, range(10) if rank == 2 else range(0)):
        own = np.array([[place, -place] for place in places], np.int64).reshape(-1, 2)
        rows = gather_rows(own, places, 10, cluster.world)
        assert rows.tolist() == [[place, -place] for place in range(10)]
    sent = cluster.world.broadcast(np.float32([rank]), root=2).numpy()
    cluster.world.barrier()
    return everyone, in_pair, counts, sent


def _traced(cluster):
    """Both groups inside one traced function, called several times."""
    pair = cluster.group((0, 1) if cluster.rank < 2 else (2, 3))

    @tf.function
    def both(x):
        return cluster.world.all_sum(x), pair.all_sum(2 * x)

    return [[t.numpy() for t in both(tf.constant(float(cluster.rank + i)))] for i in range(3)]


def _gradient(cluster):
    """d/dx of (sum over workers of x)^2 / W: each worker's loss depends on every x."""
    x = tf.constant(float(cluster.rank + 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = cluster.world.all_sum(x) ** 2 / cluster.size
    return tape.gradient(loss, x).numpy()


def _packed(cluster):
    """Six tensors of 4 to 400 bytes in messages of about 100."""
    tensors = [tf.fill(shape, float(cluster.rank + 1)) for shape in SHAPES]
    return [t.numpy() for t in all_sum_packed(tensors, cluster.world, pack_bytes=100)]


def _cut(cluster, dtype, traced):
    """Bytes of the packed sums and of those of one exchange each, and sizes of the messages."""
    random = np.random.default_rng(cluster.rank)
    tensors = [tf.cast(9 * random.standard_normal(shape), dtype) for shape in CUT_SHAPES]
    comm = Sized(cluster.world)

    def packed():
        return all_sum_packed(tensors, comm, pack_bytes=96)

    sums = (tf.function(packed) if traced else packed)()
    plain = [cluster.world.all_sum(tensor) for tensor in tensors]
    return [[(t.shape, t.numpy().tobytes()) for t in of] for of in (sums, plain)] + [comm.sizes]


def _rows_of_a_table(cluster):
    """The gradient of a look-up, which is `IndexedSlices`, and its sum in messages of 8 bytes."""
    table = tf.Variable(tf.zeros([4, 3]))

    @tf.function
    def summed():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, [0, 2, 2]))
        gradients = tape.gradient(loss, [table])
        return isinstance(gradients[0], tf.IndexedSlices), *all_sum_packed(
            gradients, cluster.world, pack_bytes=8
        )

    sparse, total = summed()
    return bool(sparse), total.numpy()


class Sized:
    """A communicator that keeps the sizes of its messages, in bytes."""

    def __init__(self, comm):
        self.size = comm.size
        self.sizes = []
        self._comm = comm

    def all_sum(self, tensor):
        self.sizes.append(tensor.shape.num_elements() * tensor.dtype.size)
        return self._comm.all_sum(tensor)


def _direct(cluster):
    """Bytes of a direct sum over all and over a pair, and the same in a ring."""
    pair = cluster.group((0, 1) if cluster.rank < 2 else (2, 3))
    terms = np.random.default_rng(cluster.rank).standard_normal(33).astype(np.float32)

    @tf.function
    def sums(x):
        return [direct_sum(x, comm) for comm in (cluster.world, pair)]

    return [one.numpy() for one in sums(tf.constant(terms))], cluster.world.all_sum(terms).numpy()


def _agree(cluster):
    return all_agree(True, cluster.world), all_agree(cluster.rank != 2, cluster.world)


SHAPES = ([], [3], [2, 5], [100], [1, 1], [7])
# Beside a message of 96 bytes: in two bytes an element the second is as large, in four the fourth,
# in eight the first; others are smaller, larger by one element, and several times as large.
CUT_SHAPES = ([12], [6, 8], [], [24], [5, 5], [1, 3], [13], [49], [7, 11, 3])


class CollectivesTest(tf.test.TestCase):
    def test_world_and_groups_sum_side_by_side(self):
        for rank, (everyone, in_pair, counts, sent) in enumerate(workers.on_cluster(4, _sums)):
            low = 0 if rank < 2 else 2
            self.assertAllEqual(everyone, [6, 4])
            self.assertAllEqual(in_pair, [2 * 10**12 + 2 * low + 1 + 2 * i for i in range(3)])
            self.assertAllEqual(counts, [0, 5, 10, 15])
            self.assertAllEqual(sent, [2])

    def test_a_traced_function_keeps_groups_apart_on_every_call(self):
        for rank, calls in enumerate(workers.on_cluster(4, _traced)):
            low = 0 if rank < 2 else 2
            self.assertAllEqual(calls, [[6 + 4 * i, 2 * (2 * low + 1 + 2 * i)] for i in range(3)])

    def test_the_gradient_of_a_sum_is_the_sum_of_gradients(self):
        self.assertAllClose(workers.on_cluster(4, _gradient), [20.0] * 4)

    def test_packed_sums_keep_their_shapes_and_places(self):
        for sums in workers.on_cluster(4, _packed):
            for got, shape in zip(sums, SHAPES, strict=True):
                self.assertAllEqual(got, np.full(shape, 10.0))

    @pytest.mark.slow
    def test_tensors_cut_into_messages_have_the_bits_of_one_exchange(self):
        # Two workers: of more, a ring adds up in an order that depends on the place in a message.
        for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.int32, tf.int64):
            for traced in (False, True):
                for packed, plain, sizes in workers.on_cluster(2, _cut, dtype, traced):
                    self.assertEqual(packed, plain)
                    self.assertLessEqual(max(sizes), 96)
                    # No more than a message for each pair of neighbours that fill one.
                    self.assertLess(len(sizes), 2 * sum(sizes) / 96 + 1)

    def test_one_element_may_exceed_a_message(self):
        comm = Sized(Solo())
        comm.size = 2
        self.assertAllEqual(all_sum_packed([tf.range(3)], comm, pack_bytes=1), [[0, 1, 2]])
        self.assertEqual(comm.sizes, [4, 4, 4])

    def test_rows_of_a_table_are_summed_as_the_whole_table(self):
        for sparse, total in workers.on_cluster(2, _rows_of_a_table):
            self.assertTrue(sparse)
            self.assertAllEqual(total, 2 * np.outer([1, 0, 2, 0], [1, 1, 1]))

    def test_direct_sums_are_those_of_a_ring_and_have_the_same_bits_on_all(self):
        found = workers.on_cluster(4, _direct)
        for rank, ((everyone, in_pair), ring) in enumerate(found):
            self.assertAllClose(everyone, ring, rtol=1e-5, atol=1e-6)
            self.assertAllEqual(everyone, found[0][0][0])
            self.assertAllEqual(in_pair, found[rank ^ 1][0][1])
        self.assertNotAllClose(found[0][0][1], found[2][0][1])
        self.assertAllEqual(direct_sum(tf.constant([2.0]), Solo()), [2.0])

    def test_all_agree_only_if_all_do(self):
        self.assertEqual(workers.on_cluster(4, _agree), [(True, False)] * 4)

    def test_solo_is_the_identity(self):
        self.assertAllEqual(Solo().all_sum([1, 2]), [1, 2])
        self.assertAllEqual(Solo().broadcast([3.0]), [3.0])


class RowsTest(tf.test.TestCase):
    def test_rows_come_to_their_places_and_others_are_zero(self):
        own = np.array([[3, 4], [1, -2]], np.float32)
        found = gather_rows(own, np.array([2, 0]), 4, Solo())
        self.assertAllEqual(found, [[1, -2], [0, 0], [3, 4], [0, 0]])
        self.assertEqual(found.dtype, np.float32)
        for rows in (0, 3):
            found = gather_rows(own[:0], range(0), rows, Solo())
            self.assertAllEqual(found, np.zeros((rows, 2)))

    def test_blocks_join_and_differ_by_one_row_at_most(self):
        for rows, size in ((0, 3), (2, 4), (10, 3), (128, 64)):
            blocks = [row_block(rows, rank, size) for rank in range(size)]
            self.assertEqual([row for block in blocks for row in block], list(range(rows)))
            self.assertLessEqual(max(map(len, blocks)) - min(map(len, blocks)), 1)


if __name__ == "__main__":
    tf.test.main()
