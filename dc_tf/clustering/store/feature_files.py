"""Features in files as one matrix by row id: of `dc_tf embed`, or files of any origin.

    features = open_folder("FEATURES", dataset, layer="fc7")
    features = open_files("vectors/*.npy", dataset)
    features = open_files("table.parquet", dataset, column="embedding")

Opening reads headers only; rows are read when they are asked for.
"""

import hashlib
import json
import os
import re

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.embeddings import Embeddings, UnitRows, find_files
from dc_tf.errors import ConfigError, DataError
from dc_tf.paths import expand

# The file of `dc_tf embed` that describes its output (evaluation/frozen/embed.py).
_ABOUT = "embed.json"
_EMBEDDED = re.compile(r".+(-\d+-of-\d+)\.npy$")  # one of its files of features
_SAMPLED_ROWS = 64  # that identify files whose origin is not recorded


class Features:
    """Features of all rows of a data set; `clustering.store.points.Points` of row ids.

    Attributes:
        path: as given: a folder, a file, a pattern, or files with commas between them.
        files: tuple of paths of the files, in row order.
        rows: number of rows, that of the data set.
        dim: components of a row.
        dtype: of what is read.
        dataset: Dataset, or None where none was named.
        layer: name of the layer; None of files of another origin.
        column: of these, with the vectors; None where it was not named.
        about: what `dc_tf embed` recorded, a dict; {} of files of another origin.
    """

    def __init__(self, path, files, dataset=None, layer=None, about=None, column=None):
        """Opens the files.

        Raises:
            ConfigError: they are no matrices of one length of row, or not those of the data set.
        """
        self.path = path
        self.files = tuple(files)
        self.dataset = dataset
        self.layer = layer
        self.column = column
        self.about = about or {}
        try:
            self._rows = Embeddings.open(self.files, column)
        except DataError as error:
            raise ConfigError(f"--features={path}: {error}") from error
        self.rows, self.dim, self.dtype = self._rows.rows, self._rows.dim, self._rows.dtype
        if not self.rows:
            raise ConfigError(f"--features={path} has no rows; embed a data set with images.")
        if dataset is not None:
            _check_same_data(self)

    @property
    def model(self) -> str | None:
        """Path of the run or SavedModel that made them; None if it is not recorded."""
        return self.about.get("model")

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) of `dtype`: rows [start, stop).

        Raises:
            DataError: a file cannot be read any more.
        """
        return self._rows.read(start, stop)

    def take(self, row_ids) -> np.ndarray:
        """(n, dim) of `dtype`: the rows `row_ids`, (n,) integers in [0, rows), in that order.

        Raises:
            DataError: as `read`, or a row id out of range.
        """
        row_ids = np.asarray(row_ids, np.int64)
        outside = row_ids[(row_ids < 0) | (row_ids >= self.rows)]
        if outside.size:
            raise DataError(f"row {outside[0]} is not in {self.path}; rows are 0..{self.rows - 1}.")
        return self._rows.take(row_ids)

    def unit(self) -> UnitRows:
        """The same rows as float32 of length 1, for cosines; a row of zeros stays one."""
        return UnitRows(self)

    def where(self, row_id) -> str:
        """Names a row by its file and its position there, for messages."""
        return self._rows.where(row_id)

    def fingerprint(self) -> str:
        """A str that identifies the features: other ones have another.

        Of files of `dc_tf embed` it follows from the weights, the data set and the settings; of
        others, from their sizes and times and from rows evenly spread over them.
        """
        owner = {name: value for name, value in self.about.items() if name != "model"}
        owner |= {"layer": self.layer, "rows": self.rows, "dim": self.dim, "dtype": self.dtype.name}
        digest = hashlib.sha256(json.dumps(owner, sort_keys=True).encode())
        if not self.about:
            for path in self.files:
                status = os.stat(path)
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
            count = min(_SAMPLED_ROWS, self.rows)
            spread = np.linspace(0, self.rows - 1, count).astype(np.int64)
            digest.update(np.ascontiguousarray(self.take(spread)).tobytes())
        return f"sha256:{digest.hexdigest()}"


def open_given(features, dataset=None, layer=None, column=None) -> Features:
    """Features as of `open_folder` of a folder, else as of `open_files`.

    Raises:
        ConfigError: as these, or a folder with a column.
    """
    folder = expand(features) if isinstance(features, str | os.PathLike) else ""
    if not folder or not os.path.isdir(folder):
        return open_files(features, dataset, layer, column)
    if column is not None:
        raise ConfigError(
            f"--column={column} is of tables and .npz archives; --features={features} is a folder."
        )
    return open_folder(folder, dataset, layer)


def open_folder(folder, dataset=None, layer=None) -> Features:
    """The features of one layer in an output folder of `dc_tf embed`.

    Args:
        folder: its path.
        dataset: Dataset to check them against, or None.
        layer: name of the layer; None takes the only one.

    Raises:
        ConfigError: not such a folder, not complete, not of that data set, or the layer is missing.
    """
    about = read_about(folder)
    layer = _choose_layer(folder, about, layer)
    files = _complete(folder, about, layer, "--features")
    return Features(folder, files, dataset, layer, about)


def files_of_only_layer(folder, setting) -> list[str]:
    """Paths of the files of the only layer in an output folder of `dc_tf embed`, in row order.

    Args:
        folder: its path.
        setting: the flag that names it, for messages.

    Raises:
        ConfigError: not such a folder, not complete, or of several layers; says what to give.
    """
    about = read_about(folder, setting)
    layers = list(about["dims"])
    if len(layers) != 1:
        patterns = [f"{setting}='{os.path.join(folder, layer)}-*.npy'" for layer in layers]
        raise ConfigError(
            f"{setting}={folder} has {len(layers)} layers; give one of them: {', '.join(patterns)}."
        )
    return _complete(folder, about, layers[0], setting)


def layer_files(folder, about, layer) -> list[str]:
    """Paths that `dc_tf embed` gives to the files of a layer, in row order."""
    count = about["files"]
    return [os.path.join(folder, f"{layer}-{n:05d}-of-{count:05d}.npy") for n in range(count)]


def sources_file(path: str) -> str | None:
    """The file that `dc_tf embed` wrote beside a file of features, with a line for each row.

    None if there is none.
    """
    folder, name = os.path.split(path)
    found = _EMBEDDED.match(name)
    beside = found and os.path.join(folder, f"sources{found[1]}.jsonl")
    return beside if beside and os.path.isfile(beside) else None


def read_about(folder, setting="--features") -> dict:
    """What `dc_tf embed` recorded in its output folder, which the flag `setting` names.

    Raises:
        ConfigError: the folder is not one of `dc_tf embed`, or the record is corrupt.
    """
    path = os.path.join(folder, _ABOUT)
    if not os.path.isfile(path):
        raise ConfigError(
            f"{setting}={folder} has no {_ABOUT}, so it is no output of `dc_tf embed`; give such "
            f"a folder, or files as '{folder}/*.npy'."
        )
    try:
        about = atomic.read_json(path)
        expected = {"data": str, "rows": int, "files": int, "dims": dict}
        wrong = [name for name, kind in expected.items() if type(about[name]) is not kind]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}; embed again.") from error
    if wrong:
        raise ConfigError(f"{path} is corrupt ({', '.join(wrong)}); embed again.")
    return about


def open_files(given, dataset=None, layer=None, column=None) -> Features:
    """Features of files; of the recorded origin if they are all files of one layer of `embed`.

    Args:
        given: a file, a pattern, or several with commas between them; or a list of files.
        dataset, layer: as of `open_folder`.
        column: of tables and archives, as of `matrix_file.open_matrix`.

    Raises:
        ConfigError: no such files, or they cannot be used.
    """
    files, text = _found(given)
    folder = os.path.dirname(files[0])
    if os.path.isfile(os.path.join(folder, _ABOUT)):
        about = read_about(folder)
        for name in about["dims"]:
            if files == layer_files(folder, about, name) and layer in (None, name):
                return Features(text, files, dataset, name, about, column)
    if layer is not None:
        raise ConfigError(
            f"--layer={layer} is for runs and folders of `dc_tf embed`; --features={text} names "
            "files."
        )
    return Features(text, files, dataset, column=column)


def _found(given) -> tuple[list[str], str]:
    """The files, and how messages name them."""
    if not isinstance(given, str | os.PathLike):
        files = [os.fspath(path) for path in given]
        if not files:
            raise ConfigError("--features is an empty list; give at least one file.")
        return files, ",".join(files)
    try:
        return find_files(os.fspath(given)), os.fspath(given)
    except DataError as error:
        raise ConfigError(f"--features: {error}") from error


def _complete(folder, about, layer, setting) -> list[str]:
    """The files of a layer; raises ConfigError if some are missing."""
    files = layer_files(folder, about, layer)
    missing = [path for path in files if not os.path.isfile(path)]
    if missing:
        raise ConfigError(
            f"{setting}={folder} is not complete: {len(missing)} of {len(files)} files of {layer} "
            f"are missing, the first is {os.path.basename(missing[0])}; repeat the call of "
            "`dc_tf embed`, which resumes."
        )
    return files


def _choose_layer(folder, about, layer):
    known = list(about["dims"])
    if layer is None and len(known) == 1:
        return known[0]
    if layer not in known:
        what = "needs --layer" if layer is None else f"has no layer {layer}"
        raise ConfigError(f"--features={folder} {what}; it has {', '.join(known)}.")
    return layer


def _check_same_data(features):
    """Refuses features of another data set.

    Raises:
        ConfigError: names both data sets.
    """
    dataset, recorded = features.dataset, features.about.get("data")
    if recorded not in (None, dataset.fingerprint()):
        raise ConfigError(
            f"--features={features.path} belongs to a data set of {recorded}, but "
            f"--data={dataset.path} has {dataset.fingerprint()}; give the data set that was "
            "embedded, or embed this one."
        )
    if features.rows != dataset.rows:
        raise ConfigError(
            f"--features={features.path} has {features.rows} rows, but --data={dataset.path} has "
            f"{dataset.rows}; features need one row for each image, in the order of row ids."
        )
