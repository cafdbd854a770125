"""The cluster of a row in every clustering of a run, read without loading any of them.

rounds = Rounds.of(run, "WORK/rounds")          # a file for each clustering, made once
rounds.places(7)                                # [Place], the oldest first
"""

import dataclasses
import os

import numpy as np

from dc_tf import atomic
from dc_tf.curation.clusters.open import Run, open_round
from dc_tf.distributed import stop_request
from dc_tf.progress import Progress
from dc_tf.report.browser.index import row_type, write_rows


@dataclasses.dataclass(frozen=True)
class Place:
    """The cluster of a row in one clustering.

    Attributes:
        stage: name.
        round: index in the stage.
        title: of the cluster.
        cluster: number of the cluster.
        shown: whether it is the clustering that is browsed.
    """

    stage: str
    round: int
    title: str
    cluster: int
    shown: bool


class Rounds:
    """All clusterings of a run; none without a run."""

    def __init__(self, rounds):
        """Takes [(stage, round, labels (N,), function of a cluster to its title, shown)]."""
        self._rounds = rounds

    @classmethod
    def of(cls, run: Run | None, folder: str) -> "Rounds":
        """Opens the clusterings of a run, and writes the labels of those that are missing.

        Raises:
            DataError: a clustering is corrupt, or of another data set.
            Preempted: after Ctrl-C; labels that are written are kept.
        """
        if run is None:
            return cls([])
        rounds = []
        with Progress(len(run.rounds), "labels of rounds", "rounds") as progress:
            for one in run.rounds:
                rounds.append(_round(run, one, folder))
                progress.update()
                stop_request.raise_if_requested("labels that are written are kept")
        return cls(rounds)

    def places(self, row: int) -> list[Place]:
        """The clusters of a row, of the oldest clustering first."""
        return [
            Place(stage, number, title(int(labels[row])), int(labels[row]), shown)
            for stage, number, labels, title, shown in self._rounds
        ]


def _round(run, one, folder):
    source = run.folder.clustering(one.stage, one.round)
    own = os.path.join(folder, os.path.basename(source))
    path = os.path.join(own, "flat.npy")
    changed = os.stat(os.path.join(source, "assignments.json")).st_mtime_ns
    owner = {"data": run.dataset.fingerprint(), "changed": changed}
    atomic.reset_foreign(os.path.join(own, "owner.json"), owner)
    if not os.path.isfile(os.path.join(own, "about.json")):
        _write(run, one, path, own)
    about = atomic.read_json(os.path.join(own, "about.json"))
    shown = run.shown is not None and (run.shown.stage, run.shown.round) == (one.stage, one.round)
    labels = np.load(path, mmap_mode="r")
    return run.stage_name(one.stage), one.round, labels, _titles(about["sub_clusters"]), shown


def _write(run, one, path, own):
    clustering = open_round(run, one)

    def fill(array):
        for first, flat, _ in clustering.blocks():
            array[first : first + len(flat)] = flat

    write_rows(path, row_type(clustering.count), run.dataset.rows, fill)
    about = {"sub_clusters": clustering.sub_clusters}
    atomic.write_json(os.path.join(own, "about.json"), about)


def _titles(sub_clusters):
    def title(cluster):
        return str(cluster) if sub_clusters == 1 else "{}.{}".format(*divmod(cluster, sub_clusters))

    return title
