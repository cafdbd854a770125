"""Clusterings of a data set, by row id: those of a run, or the one of an output of `dc_tf kmeans`.

    for clustering in find("/runs/mine"):
        clustering.stage, clustering.round, clustering.levels(dataset)  # {"clusters": (N,) labels}

Embeddings may come from anywhere. What `dc_tf embed` wrote says of which data set it is and which
row is whose, and is held to that; other rows are taken for those of the data set in its order.
"""

import dataclasses
import os
import re

import numpy as np
from absl import logging

from dc_tf.atomic import read_json
from dc_tf.clustering.assignments import Assignments, is_complete
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen import embed
from dc_tf.run_dir import RunDir

_FOLDER = re.compile(r"stage-(\d+)-round-(\d+)$")
# As clustering/job/output.py names them.
_ABOUT, _ASSIGNMENTS = "clustering.json", "assignments.npy"


@dataclasses.dataclass(frozen=True)
class RunClustering:
    """What a run has made of one stage and round."""

    run: RunDir
    stage: int
    round: int

    def levels(self, dataset) -> dict[str, np.ndarray]:
        """Labels (N,) of "clusters", and of "sub_clusters" for both levels in one.

        A level of one cluster says nothing, and is left out.

        Raises:
            DataError: the assignments are of another data set, or damaged.
        """
        assignments = Assignments.open(self.run.clustering(self.stage, self.round))
        if len(assignments.cluster) != dataset.rows:
            raise DataError(
                f"{self.run.path} has clustered {len(assignments.cluster)} images, but the data "
                f"set has {dataset.rows}; give the one that the run was made of as --train."
            )
        levels = {}
        if assignments.clusters > 1:
            levels["clusters"] = assignments.cluster
        if assignments.sub_clusters > 1:
            levels["sub_clusters"] = assignments.flat()
        return levels


@dataclasses.dataclass(frozen=True)
class KMeansClustering:
    """What `dc_tf kmeans` has written to its output; of no stage and round."""

    path: str
    stage = None
    round = None

    def levels(self, dataset) -> dict[str, np.ndarray]:
        """Labels (N,) of "clusters".

        Raises:
            DataError: the rows are not those of the data set, or a file is damaged.
        """
        try:
            files = [
                (file["path"], file["rows"]) for file in read_json(self._file(_ABOUT))["input"]
            ]
            found = np.load(self._file(_ASSIGNMENTS), allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path} holds no clustering that can be read: {error}") from error
        ids = self._row_ids(files, dataset)
        if ids is None:
            ids = np.arange(len(found))
        if len(ids) != len(found) or not np.array_equal(np.sort(ids), np.arange(dataset.rows)):
            raise DataError(
                f"{self.path} has clustered {len(found)} rows of {_named(files)}, which are not "
                f"the {dataset.rows} rows of --train={dataset.path}, each once; cluster all files "
                f"of one layer of `dc_tf embed --data={dataset.path}`, or give the data set that "
                "was embedded as --train."
            )
        labels = np.empty_like(found)
        labels[ids] = found
        return {"clusters": labels}

    def _row_ids(self, files, dataset):
        """The row ids of all rows of the files; None where one does not tell."""
        ids = [np.zeros(0, np.int64)]
        for path, rows in files:
            origin = embed.origin(path)
            if origin is None:
                logging.warning(
                    "No row ids of `dc_tf embed` lie beside %s: the rows of %s are taken for those "
                    "of %s, in its order.",
                    *(path, self.path, dataset.path),
                )
                return None
            if origin.data != dataset.fingerprint():
                raise DataError(
                    f"{self.path} has clustered {path}, features of a data set of {origin.data}; "
                    f"--train={dataset.path} is one of {dataset.fingerprint()}. Give the one that "
                    "was embedded."
                )
            if len(origin.row_ids) != rows:
                raise DataError(
                    f"{path} had {rows} rows when {self.path} was made of it, and now has row ids "
                    f"of {len(origin.row_ids)}; cluster it again."
                )
            ids.append(origin.row_ids)
        return np.concatenate(ids)

    def _file(self, name):
        return os.path.join(self.path, name)


def find(path: str) -> list[RunClustering] | list[KMeansClustering]:
    """All complete clusterings of a folder, in the order in which they were made.

    Raises:
        ConfigError: the folder is neither of a run that makes clusters nor of a finished k-means.
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
        f"--model={path} is neither a run that has made clusters nor the --output of a `dc_tf "
        "kmeans` that has finished."
    )


def is_kmeans(path: str) -> bool:
    """Whether a folder is the output of a `dc_tf kmeans` that has finished."""
    return os.path.isfile(os.path.join(os.path.expanduser(path), _ABOUT))


def _named(files):
    first = files[0][0] if files else "no file"
    return first if len(files) < 2 else f"{first} and {len(files) - 1} more"
