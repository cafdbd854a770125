"""Reads the clusterings of a run, or the clustering of `dc_tf kmeans`, by row id of a data set.

    for clustering in find("/runs/mine"):
        clustering.stage, clustering.round, clustering.levels(dataset)  # {"clusters": (N,) labels}

`dc_tf kmeans` clusters embeddings from any source. Files of `dc_tf embed` record their data set and
row ids, which are checked; rows of other files are assumed to be in the order of the data set.
"""

import dataclasses
import os
import re

import numpy as np
from absl import logging

from dc_tf.atomic import read_json
from dc_tf.clustering.assignments import Assignments, is_complete
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen.origin import origin
from dc_tf.run_dir import RunDir

_FOLDER = re.compile(r"stage-(\d+)-round-(\d+)$")
# File names of clustering/job/output.py.
_ABOUT, _ASSIGNMENTS = "clustering.json", "assignments.npy"


@dataclasses.dataclass(frozen=True)
class RunClustering:
    """The clustering of one stage and round of a run."""

    run: RunDir
    stage: int
    round: int

    def levels(self, dataset) -> dict[str, np.ndarray]:
        """{"clusters": (N,) labels, "sub_clusters": (N,) labels of both levels combined}.

        Levels with a single cluster are left out.

        Raises:
            DataError: the assignments belong to another data set or are corrupt.
        """
        assignments = Assignments.open(self.run.clustering(self.stage, self.round))
        if len(assignments.cluster) != dataset.rows:
            raise DataError(
                f"{self.run.path} has clustered {len(assignments.cluster)} images, but the data "
                f"set has {dataset.rows}; give the data set of the run as --train."
            )
        levels = {}
        if assignments.clusters > 1:
            levels["clusters"] = assignments.cluster
        if assignments.sub_clusters > 1:
            levels["sub_clusters"] = assignments.flat()
        return levels


@dataclasses.dataclass(frozen=True)
class KMeansClustering:
    """The clustering in an output folder of `dc_tf kmeans`; it has no stage and round."""

    path: str
    stage = None
    round = None

    def levels(self, dataset) -> dict[str, np.ndarray]:
        """{"clusters": (N,) labels}.

        Raises:
            DataError: the rows are not those of the data set, or a file is corrupt.
        """
        found = self._read(lambda: np.load(self._file(_ASSIGNMENTS), allow_pickle=False))
        labels = np.empty_like(found)
        labels[self.row_ids(dataset)] = found
        return {"clusters": labels}

    def input_files(self) -> list[tuple[str, int]]:
        """(path, rows) of each file that was clustered, in order; raises DataError as `levels`."""
        about = self._read(lambda: read_json(self._file(_ABOUT))["input"])
        return self._read(lambda: [(file["path"], file["rows"]) for file in about])

    def settings(self) -> dict:
        """The settings that it was made with; raises DataError as `levels`."""
        return self._read(lambda: dict(read_json(self._file(_ABOUT))["settings"]))

    def row_ids(self, dataset) -> np.ndarray:
        """(N,) int64 row id of each row that was clustered; raises DataError as `levels`."""
        files = self.input_files()
        found = self._read(lambda: np.load(self._file(_ASSIGNMENTS), mmap_mode="r"))
        ids = self._recorded_ids(files, dataset)
        if ids is None:
            ids = np.arange(len(found))
        if len(ids) != len(found) or not _are_all(ids, dataset.rows):
            raise DataError(
                f"{self.path} has clustered {len(found)} rows of {_named(files)}, which are not "
                f"the {dataset.rows} rows of --train={dataset.path}, each once; cluster all files "
                f"of one layer of `dc_tf embed --data={dataset.path}`, or give the data set that "
                "was embedded as --train."
            )
        return ids

    def _read(self, read):
        try:
            return read()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} holds no clustering that can be read ({error}); run `dc_tf kmeans` "
                "to its end, in a new --output if this one is damaged."
            ) from error

    def _recorded_ids(self, files, dataset):
        """The row ids of all rows of the files; None if a file does not record them."""
        ids = [np.zeros(0, np.int64)]
        for path, rows in files:
            recorded = origin(path)
            if recorded is None:
                logging.warning(
                    "no row ids of `dc_tf embed` lie beside %s; assuming that the rows of %s are "
                    "in the order of %s.",
                    *(path, self.path, dataset.path),
                )
                return None
            if recorded.data != dataset.fingerprint():
                raise DataError(
                    f"{self.path} has clustered {path}, features of a data set of "
                    f"{recorded.data}, but --train={dataset.path} has {dataset.fingerprint()}; "
                    "give the data set that was embedded."
                )
            if len(recorded.row_ids) != rows:
                raise DataError(
                    f"{path} had {rows} rows when {self.path} was computed, but now has "
                    f"{len(recorded.row_ids)} row ids; cluster it again."
                )
            ids.append(recorded.row_ids)
        return np.concatenate(ids)

    def _file(self, name):
        return os.path.join(self.path, name)


def _are_all(ids, rows):
    """Whether row ids are 0..rows - 1, each once."""
    if len(ids) != rows or not rows or ids.min() < 0 or ids.max() >= rows:
        return len(ids) == rows == 0
    seen = np.zeros(rows, bool)
    seen[ids] = True
    return bool(seen.all())


def find(path: str) -> list[RunClustering] | list[KMeansClustering]:
    """All complete clusterings of a folder, oldest first.

    Raises:
        ConfigError: the folder is neither a run with clusters nor a finished k-means.
    """
    run = RunDir(path)
    if os.path.isdir(run.clusterings):
        names = sorted(os.listdir(run.clusterings))
        names = [name for name in names if is_complete(os.path.join(run.clusterings, name))]
        found = [match for match in map(_FOLDER.match, names) if match]
        return [RunClustering(run, int(match[1]), int(match[2])) for match in found]
    if is_kmeans(path):
        return [KMeansClustering(run.path)]
    raise ConfigError(
        f"--model={path} is neither a run with clusters nor the --output of a `dc_tf kmeans` "
        "that has finished; give one of these."
    )


def is_kmeans(path: str) -> bool:
    """Whether a folder is the output of a finished `dc_tf kmeans`."""
    return os.path.isfile(os.path.join(os.path.expanduser(path), _ABOUT))


def _named(files):
    first = files[0][0] if files else "no file"
    return first if len(files) < 2 else f"{first} and {len(files) - 1} more"
