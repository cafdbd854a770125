"""What bfloat16 gives on a device is measured, and all workers take the same type."""

import os
import unittest
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf import precision
from dc_tf.errors import ConfigError

pytestmark = pytest.mark.numeric


def rounded(array):
    return tf.cast(array, tf.bfloat16)


def summed_in_float32(x, y):
    """What a kernel has to do: float32 sums, rounded to the nearest bfloat16 at the end."""
    return rounded(tf.matmul(tf.cast(x, tf.float32), tf.cast(y, tf.float32)))


def truncated(x, y):
    """TensorFlow's kernel on a CPU without bfloat16 units: right sums, cut off at the end."""
    exact = tf.matmul(tf.cast(x, tf.float32), tf.cast(y, tf.float32))
    bits = tf.bitwise.bitwise_and(tf.bitcast(exact, tf.uint32), np.uint32(0xFFFF0000))
    return rounded(tf.bitcast(bits, tf.float32))


def summed_in_bfloat16(x, y):
    """Every partial sum rounded."""
    total = tf.zeros((x.shape[0], y.shape[1]), tf.bfloat16)
    for i in range(x.shape[1]):
        total += x[:, i : i + 1] * y[i : i + 1]
    return total


def in_two_halves(x, y):
    """Each half summed in float32, both rounded, then added."""
    middle = x.shape[1] // 2
    return summed_in_float32(x[:, :middle], y[:middle]) + summed_in_float32(
        x[:, middle:], y[middle:]
    )


def convolution(x, y):
    """The product as a 1x1 convolution on images of a pixel."""
    return tf.nn.conv2d(x[:, None, None], y[None, None], 1, "VALID")[:, 0, 0]


class ExcessErrorTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(1, 2, 14, 70, 262, 1030, 4102)
    def test_float32_sums_rounded_once_are_within_the_bound(self, dim):
        self.assertLessEqual(precision.excess_error(summed_in_float32, dim), 1)

    @parameterized.product(kernel=(truncated, summed_in_bfloat16, in_two_halves), dim=(14, 70, 262))
    def test_kernels_that_round_otherwise_are_found_out(self, kernel, dim):
        self.assertGreater(precision.excess_error(kernel, dim), 1)

    @parameterized.parameters(truncated, summed_in_bfloat16, in_two_halves)
    @pytest.mark.slow
    def test_so_they_are_in_long_sums(self, kernel):
        self.assertGreater(precision.excess_error(kernel, 1030), 1)

    @parameterized.parameters(14, 288, 1152)
    @pytest.mark.bfloat16
    def test_convolutions_of_this_device_sum_in_float32_and_round_once(self, dim):
        """So a network in bfloat16 needs no probe of them; products of matrices have theirs."""
        self.assertLessEqual(precision.excess_error(convolution, dim), 1)

    @parameterized.parameters(1, 2, 14, 262, 4102)
    def test_float32_products_of_this_device_are_float32(self, dim):
        self.assertLessEqual(precision.excess_error(tf.matmul, dim, "float32"), 1)

    @parameterized.parameters(14, 262, 4102)
    def test_float32_that_is_computed_with_fewer_digits_is_found_out(self, dim):
        def of_bfloat16(x, y):
            x, y = (tf.cast(rounded(tensor), tf.float32) for tensor in (x, y))
            return tf.matmul(x, y)

        def of_tf32(x, y):  # ten digits after the point
            x, y = (
                tf.bitcast(
                    tf.bitwise.bitwise_and(tf.bitcast(t, tf.uint32), np.uint32(0xFFFFE000)),
                    tf.float32,
                )
                for t in (x, y)
            )
            return tf.matmul(x, y)

        for kernel in (of_bfloat16, of_tf32):
            self.assertGreater(precision.excess_error(kernel, dim, "float32"), 1)


class ChooseTest(tf.test.TestCase, parameterized.TestCase):
    def choose(self, asked, work="product", speed=2.0, excess=0.9, fault=""):
        """What is chosen on a device that is said to be like that."""
        with mock.patch.multiple(
            precision,
            bfloat16_fault=lambda: fault,
            product_speed=lambda dim: speed,
            convolution_speed=lambda: speed,
            excess_error=lambda *_: excess,
        ):
            return precision.choose(asked, work)

    @parameterized.parameters("product", "convolution")
    def test_auto_is_bfloat16_where_it_is_faster(self, work):
        choice = self.choose("auto", work)
        self.assertEqual(
            str(choice), "bfloat16 (auto: bfloat16 is 2 times as fast as float32 here)"
        )
        self.assertFalse(choice.slower)

    @parameterized.parameters("product", "convolution")
    def test_auto_is_float32_where_bfloat16_is_slower(self, work):
        choice = self.choose("auto", work, speed=0.125)
        self.assertEqual(
            str(choice), "float32 (auto: bfloat16 is 0.12 times as fast as float32 here)"
        )

    def test_products_that_lose_digits_are_float32_though_bfloat16_was_asked_for(self):
        for asked in ("auto", "bfloat16"):
            choice = self.choose(asked, excess=1.8)
            self.assertEqual(choice.dtype, "float32")
            self.assertIn("round 1.8 times as coarsely as they may", choice.reason)

    def test_what_is_asked_for_is_taken_where_it_is_slower_and_that_is_said(self):
        choice = self.choose("bfloat16", "convolution", speed=0.125, excess=1.8)
        self.assertEqual((choice.dtype, choice.speed, choice.slower), ("bfloat16", 0.125, True))

    def test_float32_and_float16_are_taken_without_a_measurement(self):
        with mock.patch.object(precision, "_relative_speed", side_effect=AssertionError):
            for asked in ("float32", "float16"):
                self.assertEqual(precision.choose(asked, "convolution").dtype, asked)

    @parameterized.parameters("product", "convolution")
    def test_bfloat16_that_would_end_the_process_is_not_tried(self, work):
        fault = "ONEDNN_MAX_CPU_ISA=AVX2 leaves oneDNN no bfloat16"
        with mock.patch.object(precision, "_relative_speed", side_effect=AssertionError):
            choice = precision.Choice("auto", "float32", reason=f"auto: {fault}")
            self.assertEqual(self.choose("auto", work, fault=fault), choice)
            with self.assertRaisesRegex(ConfigError, f"{fault}; unset .*=0, or take float32"):
                self.choose("bfloat16", work, fault=fault)

    @unittest.skipUnless(
        os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0", "launch/test.sh --processor=eigen"
    )
    def test_auto_is_float32_by_measurement_where_kernels_have_no_units(self):
        choice = precision.choose("auto", "convolution")
        self.assertEqual(choice.dtype, "float32")
        self.assertLess(choice.speed, 1)

    def test_other_work_is_refused(self):
        with self.assertRaisesRegex(ConfigError, "'pooling'; use 'convolution' or 'product'"):
            precision.choose("auto", "pooling")

    def test_what_is_measured_here_is_what_float32_and_bfloat16_take(self):
        # The slower of two functions is known; which dtype is faster on this device is not.
        def slow_in_bfloat16(x):
            if x.dtype == tf.bfloat16:
                for _ in range(50):
                    tf.matmul(tf.ones((256, 256)), tf.ones((256, 256))).numpy()
            return x

        speed = precision._relative_speed(slow_in_bfloat16, np.ones((4, 4), np.float32))
        self.assertLess(speed, 0.5)


def _chosen_on(comm):
    """Each worker measures another speed; the last one's kernel truncates."""
    speeds = {"convolution_speed": lambda: 3.0 - comm.rank}
    speeds["product_speed"] = lambda dim: 3.0 - comm.rank
    with mock.patch.multiple(precision, **speeds, bfloat16_fault=lambda: ""):
        first = precision.choose("auto", "convolution", comm=comm)
        own = truncated if comm.rank == comm.size - 1 else summed_in_float32
        with mock.patch.object(precision, "kernels", lambda: (own,)):
            second = precision.choose("auto", "product", comm=comm)
    return first, second


def _chosen_beside_a_fault(comm):
    """What auto is where the last worker lacks bfloat16, and why bfloat16 itself is refused."""
    fault = "" if comm.rank < comm.size - 1 else "its environment forbids it"
    with mock.patch.object(precision, "bfloat16_fault", lambda: fault):
        chosen = precision.choose("auto", "product", comm=comm)
        try:
            precision.choose("bfloat16", "product", comm=comm)
        except ConfigError as error:
            return chosen.dtype, str(error)


class WorkersTest(tf.test.TestCase):
    def test_one_worker_without_bfloat16_keeps_all_from_it(self):
        (first, first_error), (last, last_error) = workers.on_workers(2, _chosen_beside_a_fault)
        self.assertEqual((first, last), ("float32", "float32"))
        self.assertIn("another worker's environment leaves oneDNN no bfloat16", first_error)
        self.assertIn("its environment forbids it", last_error)

    def test_workers_agree_on_what_suits_the_slowest(self):
        for convolution, product in workers.on_workers(2, _chosen_on):
            self.assertEqual(
                str(convolution),
                "bfloat16 (auto: bfloat16 is 2 times as fast as float32 on the slowest worker)",
            )
            self.assertEqual(product.dtype, "float32")
            self.assertIn("as coarsely as they may", product.reason)


if __name__ == "__main__":
    tf.test.main()
