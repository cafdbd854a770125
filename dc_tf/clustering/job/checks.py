"""Checks the settings of a clustering where they enter, the same for the command and for Python.

asked = checked_values(Asked(input="x.npy", output="/clusters", k=1000))
start = checked_start(asked, rows=5000, dim=64, source="x.npy")
start.k, start.init
"""

import dataclasses
import os
import typing

import numpy as np

from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.errors import ConfigError, DataError
from dc_tf.kmeans_options import BACKENDS, INITS, PRECISIONS, real, share, whole

# Labels are int32.
_MAX_COUNT = 2**31 - 1
FORMATS = ("npy", "parquet")
_MAX_GB, _MAX_SECONDS = 1e9, 1e9


@dataclasses.dataclass(frozen=True)
class Asked:
    """Settings of a clustering.

    Attributes:
        input: a `.npy`, `.npz`, Parquet or Arrow file, a pattern, or several with commas between
            them; or a list of files.
        output: folder, shared by all workers.
        k: number of clusters; None is that of the centroids that `init` gives.
        iterations, seed, precision, backend, spherical, tolerance: as of `kmeans`. With
            iterations=0 and centroids, rows are assigned to these.
        init: name of a method, or a `.npy` file with (k, dim) centroids.
        normalize: scale every row to length 1.
        overwrite: replace a clustering in the output that is finished or another.
        save_every_s: seconds between snapshots; 0: every iteration.
        cache_gb: keep a worker's rows in device memory if they take no more than this.
        timeout_s: as of `distributed.session.watched`; seconds, 0: no limit.
        column: with the vectors, as of `matrix_file.open_matrix`.
        id_column: of tables, whose values are written beside the clusters; implies
            "parquet".
        format: "npy", or "parquet", which writes the clusters as a table as well.
    """

    input: str | os.PathLike | list
    output: str
    k: int | None = None
    iterations: int = 10
    init: str | np.ndarray = "random"
    seed: int = 0
    precision: str = "auto"
    backend: str = "auto"
    spherical: bool = False
    normalize: bool = False
    tolerance: float = 0.0
    overwrite: bool = False
    save_every_s: float = 60.0
    cache_gb: float = 0.25
    timeout_s: float = 600.0
    column: str | None = None
    id_column: str | None = None
    format: str = "npy"

    @property
    def cache_bytes(self) -> int:
        """`cache_gb` in bytes."""
        return int(self.cache_gb * 1e9)


class CheckedStart(typing.NamedTuple):
    """What a clustering starts from.

    Attributes:
        k: number of clusters.
        init: name of a method, or (k, dim) float32 or float64 centroids.
    """

    k: int
    init: str | np.ndarray


def checked_values(asked: Asked) -> Asked:
    """The same with Python's own numbers, each checked without the rows.

    Raises:
        ConfigError: for a value that its setting cannot hold; names the flag.
    """
    values = {
        "iterations": whole("--iterations", asked.iterations, 0, _MAX_COUNT),
        "seed": whole("--seed", asked.seed, 0),
        "tolerance": share("--tolerance", asked.tolerance),
        "cache_gb": real("--cache_gb", asked.cache_gb, 0, _MAX_GB),
        "save_every_s": real("--save_every_s", asked.save_every_s, 0, _MAX_SECONDS),
        "timeout_s": real("--timeout_s", asked.timeout_s, 0, _MAX_SECONDS),
    }
    if asked.k is not None:
        values["k"] = whole("--k", asked.k, 1, _MAX_COUNT)
    for name, choices in (
        ("precision", PRECISIONS),
        ("backend", BACKENDS),
        ("format", FORMATS),
    ):
        if getattr(asked, name) not in choices:
            raise ConfigError(f"--{name}={getattr(asked, name)}; use {', '.join(choices)}.")
    for name in ("spherical", "normalize", "overwrite"):
        values[name] = _switch(name, getattr(asked, name))
    return dataclasses.replace(asked, **values)


def checked_start(asked: Asked, rows: int, dim: int, source: str) -> CheckedStart:
    """Number of clusters and where they start, checked against the rows.

    Args:
        asked: of `checked_values`.
        rows, dim: shape of the matrix of all rows.
        source: what the user calls it.

    Raises:
        ConfigError: for more clusters than rows, unless rows are only assigned to centroids; for
            centroids of another shape.
        DataError: for no rows, or centroids that cannot be read.
    """
    if not rows:
        raise DataError(f"{source} has no rows.")
    init = asked.init
    if isinstance(init, str) and init not in INITS:
        init = read_centroids(init, asked.k, dim)
    elif not isinstance(init, str):
        init = _checked_centroids(np.asarray(init), asked.k, dim, "--init")
    is_given = isinstance(init, np.ndarray)
    if asked.k is None and not is_given:
        raise ConfigError(
            "--k is missing; give the number of clusters, or centroids with --init=FILE.npy."
        )
    k = len(init) if is_given else asked.k
    if k > rows and not (is_given and asked.iterations == 0):
        raise ConfigError(
            f"--k={k} clusters need as many rows and {source} has {rows}; use --k={rows} or less, "
            "or assign rows to given centroids with --init=FILE.npy --iterations=0."
        )
    return CheckedStart(k, init)


def read_centroids(path, k, dim) -> np.ndarray:
    """(k, dim) float32, or float64 as stored, of a `.npy` file that --init names.

    Args:
        path: of the file.
        k: number of centroids; None: any.
        dim: components of a row.

    Raises:
        ConfigError, DataError: for another kind of file, another shape, or values not finite.
    """
    if not path.endswith(".npy"):
        raise ConfigError(
            f"--init={path}; use {', '.join(INITS)}, or a .npy file with (k, dim) centroids."
        )
    file = NpyFile.open(path)
    _check_shape((file.rows, file.dim), k, dim, f"--init={path}")
    return _checked_centroids(file.open_rows().read(0, file.rows), k, dim, f"--init={path}")


def _checked_centroids(array, k, dim, name):
    _check_shape(array.shape, k, dim, name)
    try:
        wide = array.astype(np.float64, casting="same_kind")
    except TypeError as error:
        raise ConfigError(f"{name} has dtype {array.dtype.name}; use float32.") from error
    with np.errstate(over="ignore"):
        centroids = wide.astype(np.float32)
    if not np.isfinite(centroids).all():
        raise DataError(f"{name} has values that are not finite in float32.")
    return wide if array.dtype.newbyteorder("=") == np.float64 else centroids


def _check_shape(shape, k, dim, name):
    if len(shape) != 2 or shape[1] != dim or not shape[0] or k not in (None, shape[0]):
        asked = f"--k={k} and rows of {dim} need {(k, dim)}"
        if k is None:
            asked = f"rows of {dim} need (k, {dim}) with at least one centroid"
        raise ConfigError(f"{name} has shape {tuple(shape)}; {asked}.")


def _switch(name, value):
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"--{name}={value!r}; use True or False.")
    return bool(value)
