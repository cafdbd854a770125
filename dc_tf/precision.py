"""Chooses the floating-point type by measuring bfloat16 on this device.

    choice = choose("auto", "convolution", comm=cluster.world)
    choice.dtype, str(choice)     # "float32", "float32 (auto: bfloat16 is 0.12 times as fast)"
    excess_error(tf.matmul, 256)  # at most 1 where products are summed in float32, rounded once

bfloat16 is five times as fast as float32 on some devices and eight times slower on others. Not
every kernel accumulates in float32 and rounds once: without bfloat16 units, TensorFlow's CPU kernel
truncates. Speed and rounding are measured once per process, not looked up by device name.
"""

import dataclasses
import functools
import statistics
import sys
import time

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import ALONE, all_gather
from dc_tf.errors import ConfigError
from dc_tf.kernels import LIMIT, VARIABLE, bfloat16_fault
from dc_tf.limits import AUTO

# `auto` takes bfloat16, which has fewer digits, only if it is so many times as fast.
WORTHWHILE = 1.1

_ROUNDS = 5
# A measurement that takes longer than this ends after the round in progress.
_LONG_S = 1.0
# Multiplications of a product that is timed.
_CPU_PRODUCT, _GPU_PRODUCT = 1 << 28, 1 << 36
_FEW_TERMS = 16


@dataclasses.dataclass(frozen=True)
class Choice:
    """A floating-point type and why it is used.

    Attributes:
        asked: the setting.
        dtype: "float32", "bfloat16" or "float16".
        speed: float32's seconds over bfloat16's, of the slowest worker; None if not measured.
        reason: for people, or "".
    """

    asked: str
    dtype: str
    speed: float | None = None
    reason: str = ""

    def __str__(self):
        return f"{self.dtype} ({self.reason})" if self.reason else self.dtype

    @property
    def slower(self) -> bool:
        """Whether bfloat16 was asked for and float32 would be faster."""
        return self.dtype == "bfloat16" and self.speed is not None and self.speed < 1


def choose(asked: str, work: str, dim: int = 256, comm=ALONE) -> Choice:
    """The type to compute in, the same on every worker; starts TensorFlow.

    Args:
        asked: "auto", or a type, which is used as it is.
        work: "convolution" or "product": what is measured.
        dim: components that a product sums over.
        comm: Communicator of the workers, which all call this.

    Returns:
        A Choice. A product that was to be "bfloat16" is "float32" where `excess_error` is above 1
        on a worker.

    Raises:
        ConfigError: `work` is neither; on every worker, "bfloat16" would end the process of one.
    """
    if work not in ("convolution", "product"):
        raise ConfigError(f"work is {work!r}; use 'convolution' or 'product'.")
    if asked not in (AUTO, "bfloat16"):
        return Choice(asked, asked)
    if asked == AUTO and (fault := _bfloat16_fault(comm)):
        return Choice(asked, "float32", reason=f"auto: {fault}")
    require_possible(asked, comm)
    where = "here" if comm.size == 1 else "on the slowest worker"
    prefix = "auto: " if asked == AUTO else ""
    if work == "product":
        excess = max(excess_error(kernel, dim) for kernel in kernels())
        excess = float(all_gather(excess, comm).max())
        if excess > 1:
            reason = f"{prefix}bfloat16 products round {excess:.2g} times as coarsely as they may"
            return Choice(asked, "float32", reason=reason)
    speed = convolution_speed() if work == "convolution" else product_speed(dim)
    speed = float(all_gather(speed, comm).min())
    reason = f"{prefix}bfloat16 is {speed:.2g} times as fast as float32 {where}"
    dtype = "bfloat16" if asked != AUTO or speed >= WORTHWHILE else "float32"
    return Choice(asked, dtype, speed, reason)


def print_choice(choice: Choice, who: str) -> None:
    """Prints the type and its reason on stderr, if it was measured."""
    if not choice.reason:
        return
    advice = "; auto would take float32, which is faster" if choice.slower else ""
    print(f"{who}: computes in {choice}{advice}", file=sys.stderr, flush=True)


def require_possible(dtype: str, comm=ALONE) -> None:
    """ConfigError on every worker if computing in `dtype`, or "auto", would end one's process."""
    fault = _bfloat16_fault(comm) if dtype == "bfloat16" else ""
    if fault:
        raise ConfigError(
            f"bfloat16 cannot be used: {fault}; unset {LIMIT}, set {VARIABLE}=0, or take float32."
        )


def _bfloat16_fault(comm):
    """`kernels.bfloat16_fault` of this worker, or of another."""
    own = bfloat16_fault()
    on_others = all_gather(np.int32(bool(own)), comm).any()
    return own or ("another worker's environment leaves oneDNN no bfloat16" if on_others else "")


@functools.cache
def convolution_speed() -> float:
    """float32's seconds over bfloat16's, of a 3x3 convolution forward and backward."""
    batch, side, channels = (64, 56, 256) if _on_gpu() else (8, 24, 32)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, side, side, channels)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, channels, channels)).astype(np.float32)

    @tf.function(autograph=False)
    def gradients(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            y = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return tape.gradient(y, (x, kernel))

    return _relative_speed(gradients, x, kernel)


@functools.cache
def product_speed(dim: int) -> float:
    """float32's seconds over bfloat16's, of a product of matrices that sums over `dim`."""
    rows = max(16, int(((_GPU_PRODUCT if _on_gpu() else _CPU_PRODUCT) / dim) ** 0.5))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, dim)).astype(np.float32)
    y = generator.normal(size=(dim, rows)).astype(np.float32)
    return _relative_speed(tf.matmul, x, y)


@functools.cache
def kernels() -> tuple:
    """The functions that multiply matrices in k-means on this device: on a GPU, XLA's too."""
    return (tf.matmul, tf.function(tf.matmul, jit_compile=True)) if _on_gpu() else (tf.matmul,)


def excess_error(product, dim: int, dtype: str = "bfloat16") -> float:
    """The largest error of a product of matrices, over the largest that float32 sums would leave.

    Rows are made so that half of the terms cancel most of the other half: a kernel that rounds its
    factors or partial sums to fewer digits loses what remains.

    Args:
        product: function of two matrices (n, dim) and (dim, m).
        dim: components that it sums over, at least 1.
        dtype: of the matrices, "bfloat16" or "float32".

    Returns:
        At most 1 where products are summed in float32 and rounded once, to the nearest of `dtype`.
    """
    shapes = ((64, 64), (1, 64), (64, 1))
    # Few terms show how the result is rounded, many how they are summed.
    dims = {dim, min(dim, _FEW_TERMS)}
    return max(_excess_error(product, terms, dtype, *shape) for terms in dims for shape in shapes)


@functools.lru_cache(maxsize=256)
def _excess_error(product, dim, dtype, rows, columns):
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    generator = np.random.default_rng(0)
    half, rest = dim // 2, dim - 2 * (dim // 2)

    def rounded(*shape):
        return np.abs(generator.normal(size=shape)).astype(dtype)

    u, v = rounded(rows, half), rounded(half, columns)
    x = np.concatenate([u, u, rounded(rows, rest)], 1)
    y = np.concatenate([v, -v, rounded(rest, columns)], 0)
    y[half:] += y[half:] * np.asarray(2.0**-6, dtype)  # so that the sums are not zero
    worst = 0.0
    for order in (np.arange(dim), generator.permutation(dim)):
        a, b = x[:, order], y[order]
        found = np.asarray(product(tf.constant(a), tf.constant(b))).astype(np.float64)
        a, b = a.astype(np.float64), b.astype(np.float64)
        exact, size = a @ b, np.abs(a) @ np.abs(b)
        # Rounding of the result; additions in float32, whose errors mostly cancel.
        digits = 2.0**-8 if dtype != np.float32 else 2.0**-24
        allowed = digits * np.abs(exact) + 8 * np.sqrt(dim) * 2.0**-24 * size
        worst = max(worst, float(np.max(np.abs(found - exact) / allowed)))
    return worst


def _relative_speed(function, *arrays):
    """Seconds in float32 over seconds in bfloat16, the median of some rounds of both in turn."""
    exact = [tf.constant(array) for array in arrays]
    rough = [tf.cast(tensor, tf.bfloat16) for tensor in exact]
    for arguments in (exact, rough):
        _seconds(function, arguments)  # traces, and initialises kernels
    ratios, started = [], time.monotonic()
    while len(ratios) < _ROUNDS and (not ratios or time.monotonic() - started < _LONG_S):
        ratios.append(_seconds(function, exact) / _seconds(function, rough))
    return statistics.median(ratios)


def _seconds(function, arguments):
    started = time.perf_counter()
    result = tf.nest.flatten(function(*arguments))
    result[0][..., :1].numpy()  # waits for the device
    return time.perf_counter() - started


def _on_gpu():
    return bool(tf.config.list_physical_devices("GPU"))
