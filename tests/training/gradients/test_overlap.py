"""Messages of dense gradients lie between the exchanges of batch norm, in one order."""

import itertools
import unittest.mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from step_case import FC, RESOLUTION, new_trunk

from dc_tf.training.gradients import exchange as exchange_lib
from dc_tf.training.gradients.exchange import Exchange, local_gradients, recording
from dc_tf.training.gradients.overlap import Overlap

BATCH = 4


class Twins:
    """Two workers with the same numbers, played by one; keeps what it was asked for.

    Attributes:
        calls: names, in order.
        sizes: values of each sum.
    """

    rank, size = 0, 2

    has_all_to_all = True

    def __init__(self):
        self.calls, self.sizes = [], []

    def all_sum(self, tensor):
        self.calls.append("sum")
        self.sizes.append(tensor.shape.num_elements())
        return 2 * tensor

    def gather(self, tensor):
        self.calls.append("gather")
        return tf.tile(tensor[tf.newaxis], [2, 1])

    def all_to_all(self, tensor):
        self.calls.append("all to all")
        return tensor


class OverlapTest(tf.test.TestCase, parameterized.TestCase):
    def trace(
        self,
        as_factors,
        enabled=True,
        message_bytes=1 << 20,
        least=1 << 20,
        times=1,
        convs=(),
        direct=False,
    ):
        """(gradients of a trunk, calls in the order of the trace, number of norms)."""
        trunk, comm = self.trunk, self.comm = new_trunk(), Twins()
        dense = [trunk.fc6, trunk.fc7]
        factored, early = (dense, []) if as_factors else ([], dense)
        weights = trunk.trainable_variables
        early_convs = [trunk.parts()[name].conv for name in convs]
        exchange = Exchange(weights, factored, comm, early=early, early_convs=early_convs)
        overlap = Overlap(comm, enabled, direct)
        trunk.share_statistics(overlap)
        images = np.random.default_rng(0).random((BATCH, RESOLUTION, RESOLUTION, 3), np.float32)

        @tf.function(autograph=False)
        def step(images):
            del comm.calls[:]
            mask = tf.ones([images.shape[0], FC])
            with recording([exchange]), overlap.of_a_pass([exchange]):
                with tf.GradientTape() as tape:
                    features = trunk(images, training=True, dropout_mask=mask)
                    loss = tf.reduce_sum(tf.sin(features["fc7"]))
                overlap.begin_backward()
                (local,) = local_gradients(tape, loss, [exchange])
            comm.calls.append("end")
            return exchange.all_sum(local)[0]

        limits = {"MESSAGE_BYTES": message_bytes, "_LEAST_PART_BYTES": least}
        with unittest.mock.patch.multiple(exchange_lib, **limits):
            for count in range(times):
                gradients = step(tf.constant(images[: BATCH - count]))
        return gradients, comm.calls, len(list(trunk.norms()))

    @parameterized.parameters(True, False)
    @pytest.mark.slow
    def test_messages_leave_after_the_first_norms_of_the_backward_pass(self, as_factors):
        _, calls, norms = self.trace(as_factors)
        name = "gather" if as_factors else "sum"
        # Batch norm forwards; backwards; each layer's message behind one of the first norms.
        head = [*["sum"] * norms, "sum", name, "sum", name, *["sum"] * (norms - 2), "end"]
        self.assertEqual(calls[: len(head)], head)
        self.assertEqual(calls[len(head) :], ["sum"])  # of all other weights

    @parameterized.parameters({"message_bytes": 1 << 7}, {"least": 1})
    @pytest.mark.slow
    def test_many_messages_are_spread_over_all_norms(self, **limits):
        _, calls, norms = self.trace(True, **limits)
        backward = calls[norms : calls.index("end")]
        self.assertGreaterEqual(backward.count("gather"), 2 * norms)
        runs = [list(run) for key, run in itertools.groupby(backward) if key == "gather"]
        self.assertLen(runs, norms)
        self.assertLessEqual(max(map(len, runs)) - min(map(len, runs)), 1)
        self.assertEqual(calls[calls.index("end") :].count("gather"), 0)

    @pytest.mark.slow
    def test_a_convolution_s_message_leaves_behind_the_next_norm(self):
        gradients, calls, norms = self.trace(True, convs=("conv13", "conv3"))
        backward = calls[norms : calls.index("end")]
        # The norm of conv12 comes behind conv13, and that of conv2 behind conv3.
        expected = ["sum", "gather", "sum", "gather", "sum", *["sum"] * (norms - 2), "sum"]
        self.assertEqual(sorted(backward), sorted(expected))
        self.assertEqual(backward[:5], expected[:5])
        late, _, _ = self.trace(True, enabled=False)
        for one, other in zip(gradients, late, strict=True):
            self.assertAllClose(one, other, rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    def test_statistics_can_be_summed_directly(self):
        gradients, calls, norms = self.trace(True, direct=True)
        self.assertEqual(calls.count("all to all"), 2 * norms)
        rings, _, _ = self.trace(True)
        for one, other in zip(gradients, rings, strict=True):
            self.assertAllClose(one, other, rtol=1e-6, atol=1e-7)

    @pytest.mark.slow
    def test_messages_at_the_end_begin_with_the_last_layers(self):
        self.trace(False, enabled=False, convs=("conv3", "conv13"))
        parts = self.trunk.parts()
        layers = [parts[name].weights for name in ("fc7", "fc6")]
        layers += [[parts[name].conv.kernel] for name in ("conv13", "conv3")]
        sizes = [sum(w.shape.num_elements() for w in weights) for weights in layers]
        self.assertEqual(self.comm.sizes[-5:-1], sizes)  # then all other weights

    @pytest.mark.slow
    def test_gradients_are_those_of_messages_at_the_end(self):
        self.check_gradients(as_factors=True, message_bytes=1 << 9)

    @parameterized.parameters((True, 1 << 20), (False, 1 << 9), (False, 1 << 20))
    @pytest.mark.slow
    def test_so_they_are_in_messages_of_another_size(self, as_factors, message_bytes):
        self.check_gradients(as_factors, message_bytes)

    def check_gradients(self, as_factors, message_bytes):
        early, _, _ = self.trace(as_factors, True, message_bytes)
        late, calls, norms = self.trace(as_factors, False, message_bytes)
        self.assertEqual(calls[: 2 * norms + 1], [*["sum"] * 2 * norms, "end"])
        for one, other in zip(early, late, strict=True):
            self.assertAllClose(one, other, rtol=1e-5, atol=1e-6)
            self.assertGreater(np.abs(one).max(), 0)

    @pytest.mark.slow
    def test_a_second_trace_uses_nothing_of_the_first(self):
        gradients, calls, _ = self.trace(True, times=2)
        self.assertEqual(calls.count("gather"), 2)
        self.assertEqual(gradients[-1].shape, [FC])


if __name__ == "__main__":
    tf.test.main()
