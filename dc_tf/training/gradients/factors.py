"""The gradient of a dense layer as the product of two factors, and how a backward pass gets them.

    tap = Tap(layer)                                   # of nn.dense.Dense or nn.heads.LinearHead
    with tap.recording(), tf.GradientTape() as tape:
        loss = ...
        gradients = tape.gradient(loss, other_weights)
    kernel_gradient, bias_gradient = tap.take().gradients(with_bias=True)

Reference: Xie et al. 2016, sufficient factor broadcasting.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf


class Factors(NamedTuple):
    """Factors of the gradients of a kernel (n, m) and a bias (m,): `inputs^T slopes`, and a sum.

    Attributes:
        inputs: (rows, n), what entered the layer, in the type of its products.
        slopes: (rows, m), the gradient of the loss by what left it, in the same type.
    """

    inputs: tf.Tensor
    slopes: tf.Tensor

    def gradients(self, with_bias: bool) -> list[tf.Tensor]:
        """Float32 gradients of the kernel and, with one, of the bias."""
        exact = self.in_float32() if self.slopes.dtype == tf.float16 else self
        kernel = tf.matmul(exact.inputs, exact.slopes, transpose_a=True)
        return [tf.cast(kernel, tf.float32), *([self.bias_gradient()] if with_bias else [])]

    def bias_gradient(self) -> tf.Tensor:
        """(m,) float32."""
        return tf.reduce_sum(tf.cast(self.slopes, tf.float32), 0)

    def squared_norm(self) -> tf.Tensor:
        """() float32 squared norm of the gradients of kernel and bias, without forming them.

        With rows x_i and d_i it is the sum of (x_i . x_j + 1) (d_i . d_j) over all i and j.
        """
        exact = self.in_float32()
        of_inputs, of_slopes = (tf.matmul(f, f, transpose_b=True) for f in exact)
        return tf.maximum(tf.reduce_sum((of_inputs + 1.0) * of_slopes), 0.0)

    def in_float32(self) -> "Factors":
        """The same in float32."""
        return Factors(*(tf.cast(factor, tf.float32) for factor in self))

    def scaled(self, factor) -> "Factors":
        """Those of `factor` times the gradient, in float32."""
        exact = self.in_float32()
        return exact._replace(slopes=factor * exact.slopes)


class KernelGradient(NamedTuple):
    """The gradient of a kernel, in the place of its factors.

    Attributes:
        kernel: float32, of the kernel's shape.
    """

    kernel: tf.Tensor

    def gradients(self, with_bias: bool) -> list[tf.Tensor]:
        """The gradient of the kernel, the only one that is recorded."""
        del with_bias
        return [self.kernel]


class Tap:
    """Records the factors of a dense layer's gradient while the backward pass is traced.

    Args:
        layer: with `kernel`, `bias` (None without) and `tap`, which this sets in `recording`.

    Attributes:
        weights: kernel and bias of the layer.
    """

    def __init__(self, layer):
        self.weights = [weight for weight in (layer.kernel, layer.bias) if weight is not None]
        self._layer = layer
        self._calls, self._waiting = None, 0

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, calls of the layer are recorded; outside, the layer is as without a tap."""
        self._calls, self._waiting, self._layer.tap = [], 0, self
        try:
            yield
        finally:
            self._calls = self._layer.tap = None

    def __call__(self, inputs, outputs) -> tf.Tensor:
        self._waiting += 1

        @tf.custom_gradient
        def tapped(y):
            def gradient(slopes):
                self._calls.append(Factors(inputs, slopes))
                self._waiting -= 1
                return slopes

            return tf.identity(y), gradient

        return tapped(outputs)

    @property
    def complete(self) -> bool:
        """Whether the backward pass is through all calls of the layer."""
        return bool(self._calls) and not self._waiting

    def take(self) -> Factors:
        """The factors of all calls whose gradient was computed, within `recording`.

        Raises:
            RuntimeError: there was none.
        """
        if not self._calls:
            raise RuntimeError(f"no gradient reached the layer of {self.weights[0].name}.")
        return Factors(*(tf.concat(parts, 0) for parts in zip(*self._calls, strict=True)))

    def arrays(self, count: int, rows: int) -> Factors:
        """tf.TensorArray of each factor, for `count` parts of `rows` rows."""
        dtype = getattr(self._layer, "compute_dtype", tf.float32)
        return Factors(
            *(
                tf.TensorArray(dtype, count, element_shape=[rows, dim])
                for dim in self.weights[0].shape
            )
        )


class KernelTap:
    """Records the gradient of a convolution's kernel while the backward pass is traced.

    Args:
        layer: `nn.conv.Conv2D`.

    Attributes:
        weights: the kernel, in a list.
    """

    def __init__(self, layer):
        self.weights = [layer.kernel]
        self._layer = layer
        self._gradients, self._waiting = None, 0

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """As of `Tap`."""
        self._gradients, self._waiting, self._layer.tap = [], 0, self
        try:
            yield
        finally:
            self._gradients = self._layer.tap = None

    def __call__(self, kernel) -> tf.Tensor:
        self._waiting += 1

        @tf.custom_gradient
        def tapped(value):
            def gradient(slope):
                self._gradients.append(tf.cast(slope, tf.float32))
                self._waiting -= 1
                return slope

            return tf.identity(value), gradient

        return tapped(tf.convert_to_tensor(kernel))

    @property
    def complete(self) -> bool:
        """Whether the backward pass is through all calls of the layer."""
        return bool(self._gradients) and not self._waiting

    def take(self) -> KernelGradient:
        """The sum of the gradients of all calls, within `recording`.

        Raises:
            RuntimeError: there was none.
        """
        if not self._gradients:
            raise RuntimeError(f"no gradient reached {self.weights[0].name}.")
        return KernelGradient(tf.add_n(self._gradients))
