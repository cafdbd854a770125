"""How k-means is run: one declaration for experiments, commands, cost model and k-means itself.

options = KMeansOptions(iterations=20, precision="bfloat16")
result = kmeans(points, k=1000, options=options)
"""

import dataclasses
import numbers
import operator

from dc_tf.errors import ConfigError

INITS = ("random", "k-means++", "k-means||")
PRECISIONS = ("float32", "bfloat16", "auto")
BACKENDS = ("auto", "tensorflow", "faiss")


@dataclasses.dataclass(frozen=True, eq=False)
class KMeansOptions:
    """Settings of a k-means other than its rows, k and seed.

    Attributes:
        iterations: of Lloyd, at least 0; the most, where `tolerance` is set.
        init: "random", "k-means++" or "k-means||" (see `dc_tf.clustering.initial`), or a (k, dim)
            array of initial centroids, the same on all workers.
        precision: "float32", or "bfloat16" for the products (summed in float32). A row then moves
            only to a centroid that is nearer in float32, so the objective never increases. "auto"
            measures and takes bfloat16 where it is faster on all workers. A worker whose bfloat16
            products lose digits takes float32's.
        spherical: keep centroids at length 1; meant for rows of length 1.
        tolerance: stop when an iteration lowers the objective by no more than this share of it; 0
            does all iterations.
        backend: "tensorflow", "faiss" (float32 only) or "auto", the faster for k and dim.
        cache_bytes: keep the rows, as factors of the products, in device memory if they take at
            most this.
        memory_bytes: bound for the temporaries of the assignment; None is an eighth of the memory
            that is free but at most 256 MiB, on a GPU a sixteenth of its own but at most 2 GiB.

    Raises:
        ConfigError: for values that cannot work.
    """

    iterations: int = 10
    init: object = "random"
    precision: str = "float32"
    spherical: bool = False
    tolerance: float = 0.0
    backend: str = "auto"
    cache_bytes: int = 250_000_000
    memory_bytes: int | None = None

    def __post_init__(self):
        whole("iterations", self.iterations, 0)
        share("tolerance", self.tolerance)
        whole("cache_bytes", self.cache_bytes, 0)
        if self.memory_bytes is not None:
            whole("memory_bytes", self.memory_bytes, 1)


def whole(name, value, least, most=None) -> int:
    """`value` as an int.

    Raises:
        ConfigError: it is not a whole number, less than `least`, or more than `most`.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least or (most is not None and found > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name}={value!r}; use a whole number, {limits}.")
    return found


def real(name, value, least, most) -> float:
    """`value` as a float.

    Raises:
        ConfigError: it is not a number from `least` to `most`; infinity and NaN are not.
    """
    if not isinstance(value, numbers.Real) or not least <= value <= most:
        raise ConfigError(f"{name}={_plain(value)}; use a number from {least:g} to {most:g}.")
    return float(value)


def share(name, value) -> float:
    """`value` as a float in [0, 1).

    Raises:
        ConfigError: it is another number, or none.
    """
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ConfigError(f"{name}={_plain(value)}; use a share from 0 to less than 1.")
    return float(value)


def _plain(value):
    """As a user wrote it: NumPy's numbers without the name of their type."""
    return float(value) if isinstance(value, numbers.Real) else repr(value)
