"""Checks the settings of a clustering where they enter, the same for the command and for Python.

asked = Asked.of(input="x.npy", output="/clusters", k=1000, tolerance=0.01)
start = checked_start(asked, rows=5000, dim=64, source="x.npy")
start.k, start.init
"""

from __future__ import annotations

import dataclasses
import os
import typing

import numpy as np

from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.errors import ConfigError, DataError
from dc_tf.kmeans_options import (
    COMMAND_OPTIONS,
    INITS,
    MAX_COUNT,
    KMeansOptions,
    cache_bytes_of,
    choice,
    real,
    switch,
    whole,
)

FORMATS = ("npy", "parquet")
_MAX_SECONDS = 1e9


@dataclasses.dataclass(frozen=True)
class Asked:
    """Settings of a clustering.

    Attributes:
        input: a `.npy`, `.npz`, Parquet or Arrow file, a pattern, an output folder of `dc_tf embed`
            with one layer, or several of these with commas between them; or a list of them.
        output: folder, shared by all workers.
        k: number of clusters; None is that of the centroids that `init` gives.
        options: KMeansOptions but for `init`. With iterations=0 and centroids, rows are assigned to
            these.
        init: name of a method, a `.npy` file with (k, dim) centroids, or these as an array.
        seed: as of `kmeans`.
        normalize: scale every row to length 1.
        overwrite: replace a clustering in the output that is finished or another.
        save_every_s: seconds between snapshots; 0: every iteration.
        timeout_s: as of `distributed.session.watched`; seconds, 0: no limit.
        column: with the vectors, as of `matrix_file.open_matrix`.
        id_column: of tables, whose values are written beside the clusters; implies
            "parquet".
        format: "npy", or "parquet", which writes the clusters as a table as well.

    Raises:
        ConfigError: for a value that its setting cannot hold; begins with the name of the setting.
    """

    input: str | os.PathLike | list
    output: str
    k: int | None = None
    options: KMeansOptions = COMMAND_OPTIONS
    init: str | np.ndarray = COMMAND_OPTIONS.init
    seed: int = 0
    normalize: bool = False
    overwrite: bool = False
    save_every_s: float = 60.0
    timeout_s: float = 600.0
    column: str | None = None
    id_column: str | None = None
    format: str = "npy"

    def __post_init__(self):
        values = {
            "seed": whole("seed", self.seed, 0),
            "save_every_s": real("save_every_s", self.save_every_s, 0, _MAX_SECONDS),
            "timeout_s": real("timeout_s", self.timeout_s, 0, _MAX_SECONDS),
            "format": choice("format", self.format, FORMATS),
            "normalize": switch("normalize", self.normalize),
            "overwrite": switch("overwrite", self.overwrite),
        }
        if self.k is not None:
            values["k"] = whole("k", self.k, 1, MAX_COUNT)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # Python's own numbers, in a frozen class

    @classmethod
    def of(cls, cache_gb=None, **settings) -> Asked:
        """From settings as flags: those of `KMeansOptions` among the others.

        Args:
            cache_gb: `cache_bytes` in units of 1e9; None is the default.
            settings: {name: value}.

        Raises:
            ConfigError: for a value that its setting cannot hold; names the flag.
        """
        names = {field.name for field in dataclasses.fields(KMeansOptions)} - {"init"}
        own = {name: settings.pop(name) for name in names & settings.keys()}
        try:
            if cache_gb is not None:
                own["cache_bytes"] = cache_bytes_of(cache_gb)
            return cls(options=dataclasses.replace(COMMAND_OPTIONS, **own), **settings)
        except ConfigError as error:
            raise ConfigError(f"--{error}") from error


class CheckedStart(typing.NamedTuple):
    """What a clustering starts from.

    Attributes:
        k: number of clusters.
        init: name of a method, or (k, dim) float32 or float64 centroids.
    """

    k: int
    init: str | np.ndarray


def checked_start(asked: Asked, rows: int, dim: int, source: str) -> CheckedStart:
    """Number of clusters and where they start, checked against the rows.

    Args:
        asked: Asked.
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
    if k > rows and not (is_given and asked.options.iterations == 0):
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
