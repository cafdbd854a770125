"""How k-means is run: one declaration for experiments, commands, cost model and k-means itself.

options = KMeansOptions(iterations=20, precision="bfloat16")
result = kmeans(points, k=1000, options=options)
options = dataclasses.replace(COMMAND_OPTIONS, tolerance=0.01)   # what `dc_tf kmeans` starts from
"""

import dataclasses
import numbers
import operator

from dc_tf.errors import ConfigError
from dc_tf.limits import AUTO

INITS = ("random", "k-means++", "k-means||")
# The last centroids of a training run; for `hierarchical_kmeans`, which replaces it by them.
PREVIOUS = "previous"
# Of products; "auto" is replaced by one of them before rows are assigned.
PRECISIONS = ("float32", "bfloat16")
# What a setting of names may be.
CHOICES = {
    "init": (*INITS, PREVIOUS),
    "precision": (*PRECISIONS, AUTO),
    "backend": (AUTO, "tensorflow", "faiss"),
}
# Labels and counts of iterations are int32.
MAX_COUNT = 2**31 - 1
MAX_GB = 1e9


@dataclasses.dataclass(frozen=True, eq=False)
class KMeansOptions:
    """Settings of a k-means other than its rows, k and seed.

    Attributes:
        iterations: of Lloyd, at least 0; the most, where `tolerance` is set.
        init: "random", "k-means++" or "k-means||" (see `dc_tf.clustering.initial`), or a (k, dim)
            array of initial centroids, the same on all workers; "previous" as of
            `hierarchical_kmeans`.
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
        ConfigError: for values that cannot work; begins with the name of the setting. The shape of
            `init` is left to `kmeans`, which knows k.
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
        values = {
            "iterations": whole("iterations", self.iterations, 0, MAX_COUNT),
            "spherical": switch("spherical", self.spherical),
            "tolerance": share("tolerance", self.tolerance),
            "cache_bytes": whole("cache_bytes", self.cache_bytes, 0),
        }
        if self.memory_bytes is not None:
            values["memory_bytes"] = whole("memory_bytes", self.memory_bytes, 1)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # Python's own numbers, in a frozen class
        if isinstance(self.init, str):
            choice("init", self.init)
        choice("precision", self.precision)
        choice("backend", self.backend)
        check_precision_of_backend(self.backend, self.precision)


def check_precision_of_backend(backend, precision) -> None:
    """Refuses faiss with another type than float32.

    Raises:
        ConfigError: says what would work.
    """
    if backend == "faiss" and precision not in ("float32", AUTO):
        raise ConfigError(
            f"precision={precision}; use float32 or auto with backend=faiss, which has float32 "
            "only, or backend=tensorflow."
        )


def cache_bytes_of(gigabytes) -> int:
    """The setting `cache_gb`, which commands and experiments have, as `cache_bytes`.

    Raises:
        ConfigError: it is not a number from 0 to `MAX_GB`.
    """
    return round(real("cache_gb", gigabytes, 0, MAX_GB) * 1e9)


def choice(name, value, choices=None) -> str:
    """`value`, one of `choices`, by default those of `CHOICES[name]`.

    Raises:
        ConfigError: it is another one.
    """
    *most, last = choices = choices or CHOICES[name]
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name}={value}; use {', '.join(most)} or {last}.")
    return value


def switch(name, value) -> bool:
    """`value`, Python's or NumPy's, as a bool.

    Raises:
        ConfigError: it is neither.
    """
    # By name, since NumPy takes longer to import than commands to check their flags.
    if type(value).__name__ not in ("bool", "bool_"):
        raise ConfigError(f"{name}={value!r}; use True or False.")
    return bool(value)


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


# A job of its own is worth the measurement that "auto" takes. An experiment has float32 unless it
# says otherwise, as in the paper.
COMMAND_OPTIONS = KMeansOptions(precision=AUTO)
