"""Chooses rows of a data set by rules and writes them as a view.

    curate(data="DATA", features="FEATURES", target=10_000, output="BALANCED")
    curate(data="DATA", where=["meta/hashtag=sea"], drop_rows="blurred.npy", output="SEA")

Rules act in this order: rows, drop_rows, where, drop_outliers, drop_sparsest, drop_rarest,
max_per_cluster, target. Clusters are those of a finished clustering, or of a hierarchical k-means
of features, which is kept and used again for other rules.
"""

import contextlib
import os
import tempfile

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.statistics import count_statistics
from dc_tf.curation.features.open import open_features
from dc_tf.curation.selection.request import CurateRequest
from dc_tf.curation.selection.row_files import read_rows
from dc_tf.curation.selection.rules import Selection
from dc_tf.curation.selection.where import matching_rows
from dc_tf.curation.tree.flat_tree import flat_tree
from dc_tf.curation.tree.grow import grow
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.materialize import materialize
from dc_tf.data.storage.row_list import rows_checksum
from dc_tf.data.storage.staging import check_output
from dc_tf.data.storage.view import check_not_source, make_view, write_view
from dc_tf.distributed import heartbeat
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.joined import joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError, DataError

# Of a request: where things are and what becomes of the rows, not which rows are chosen.
_FREE = (
    *("data", "output", "run", "features", "column", "layer", "clusters", "tree"),
    *("rows", "drop_rows"),
)
_FREE += ("dry_run", "materialize", "format", "overwrite", "timeout_s", "precision")


def curate(**asked) -> dict | None:
    """Chooses rows and writes them.

    Args:
        asked: attributes of `CurateRequest`.

    Returns:
        dict of output, rows, of (rows of the data set), steps (rows that each rule has left),
        corrupt (rows that a condition could not read), classes and clusters (how evenly rows are
        spread over them, before and after; None without) and materialized (see `materialize`).
        None on workers other than the chief.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: data that cannot be used.
        Preempted: the process was asked to stop; what was done is kept.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    request = CurateRequest(**asked)
    request.check()
    with joined(*_shared_folder(request), request.timeout_s) as comm:
        return _Curation(request, comm).run()


def _shared_folder(request) -> tuple[str, str]:
    """(flag with value, folder) where workers hold their rendezvous.

    Raises:
        ConfigError: several workers, and no folder that they could share.
    """
    for name in ("tree", "output", "materialize"):
        folder = getattr(request, name)
        if folder is not None:
            return f"--{name}={folder}", os.path.expanduser(folder)
    if task_from_environment().size > 1:
        raise ConfigError("several workers need --tree, a folder that all can write.")
    return "--output", ""


class _Curation:
    """One call, with what it has opened."""

    def __init__(self, request, comm):
        self._request, self._comm = request, comm
        self._features = self._open_features()
        with raise_on_all(comm):
            self._dataset = self._open_dataset()
            self._lists = {
                name: read_rows(getattr(request, name), f"--{name}", self._dataset.rows)
                for name in ("rows", "drop_rows")
                if getattr(request, name) is not None
            }
            self._settings = self._what_decides()
            self._result = self._finished()
            self._check_outputs()

    def run(self):
        with contextlib.ExitStack() as end:
            if self._result is None:
                selection = self._selected_by_row()
                selection.tree = self._tree(end)
                if self._comm.rank == 0:
                    with heartbeat.slow_operation("rules by cluster"):
                        self._select(selection)
        if self._comm.rank:
            return None
        return self._result | {"materialized": self._copy()}

    def _open_features(self):
        request = self._request
        if not request.has_features:
            return None
        return open_features(
            request.run,
            request.features,
            request.data,
            request.layer,
            comm=self._comm,
            column=request.column,
        )

    def _open_dataset(self):
        if self._features is not None:
            return self._features.dataset
        data = self._request.data
        try:
            return data if isinstance(data, Dataset) else Dataset.open(os.path.expanduser(data))
        except DataError as error:
            raise ConfigError(f"--data: {error}") from error

    def _what_decides(self):
        """JSON-ready dict of what the chosen rows depend on."""
        given = {name: value for name, value in vars(self._request).items() if name not in _FREE}
        given["where"] = list(given["where"])
        given["levels"] = given["levels"] and list(given["levels"])
        lists = {name: rows_checksum([rows]) for name, rows in self._lists.items()}
        return {
            "data": self._dataset.fingerprint(),
            "features": self._features and self._features.fingerprint(),
            "clusters": self._request.clusters and os.path.abspath(self._request.clusters),
            **given,
            **lists,
        }

    def _finished(self):
        """The result of the same call, if its view is there already."""
        if self._request.output is None or self._request.overwrite:
            return None
        try:
            origin = Dataset.open(self._request.output).origin
        except DataError:
            return None
        return origin.get("result") if origin.get("settings") == self._settings else None

    def _check_outputs(self):
        request = self._request
        for output in (request.output, request.materialize):
            if output is not None:
                check_not_source(self._dataset, output)
        if request.output is not None and self._result is None:
            check_output(request.output, request.overwrite)

    def _tree(self, end):
        """The clusters; None where no rule needs them."""
        request = self._request
        if not request.by_cluster:
            return None
        if request.clusters is not None:
            with raise_on_all(self._comm):
                if self._comm.rank:
                    return None
                return flat_tree(request.clusters, self._dataset, self._features)
        folder = request.tree or (request.output and f"{request.output.rstrip('/')}.tree")
        if folder is None:
            if self._comm.size > 1:
                raise ConfigError("several workers need --tree, a folder that all can write.")
            folder = end.enter_context(tempfile.TemporaryDirectory(prefix="dc_tf_tree_"))
        options = request.hierarchy(self._dataset.rows)
        return grow(self._features, options, folder, request.normalize, self._comm)

    def _selected_by_row(self):
        """The Selection after the rules that need no clusters."""
        request, dataset = self._request, self._dataset
        selection = Selection(dataset.rows, None, request.seed, request.choice)
        for name, rows in self._lists.items():
            drops = name == "drop_rows"
            mask = np.full(dataset.rows, drops)
            mask[rows] = not drops
            selection.keep(name, mask)
        self._corrupt = self._apply_conditions(selection)
        return selection

    def _select(self, selection):
        """Applies the rules by cluster in their order, writes the view, keeps the result."""
        request, dataset, tree = self._request, self._dataset, selection.tree
        for name in ("drop_outliers", "drop_sparsest", "drop_rarest"):
            if share := getattr(request, name):
                getattr(selection, name)(share)
        if request.max_per_cluster is not None:
            selection.at_most(request.max_per_cluster)
        if request.target is not None:
            selection.balance(request.target)
        self._result = {
            "output": None if request.dry_run else request.output,
            "rows": int(selection.kept.sum()),
            "of": dataset.rows,
            "steps": selection.steps,
            "corrupt": self._corrupt,
            "classes": _spread(dataset.labels(), selection.kept),
            "clusters": tree and _spread(tree.labels, selection.kept),
        }
        self._write(selection.row_ids())

    def _apply_conditions(self, selection):
        """Number of rows that could not be read."""
        conditions = self._request.conditions()
        if not conditions:
            return 0
        rows = selection.row_ids()
        found = matching_rows(self._dataset, rows, conditions, self._where_folder(), self._comm)
        mask = np.zeros(self._dataset.rows, bool)
        mask[rows[found.kept]] = True
        selection.keep("where", mask)
        return found.corrupt

    def _where_folder(self):
        """Where the rows that fulfil the conditions are kept until there is a view."""
        request = self._request
        beside = request.output or request.materialize or request.tree
        return beside and f"{os.path.expanduser(beside).rstrip('/')}.where"

    def _write(self, row_ids):
        """Writes the view, or in memory what is copied from."""
        request = self._request
        if request.where and self._where_folder():
            atomic.remove_tree(self._where_folder())
        if request.dry_run:
            return
        if not len(row_ids):
            raise DataError("no row is left; see how many each rule has left.", self._result)
        if request.output is None:
            self._chosen = make_view(self._dataset, row_ids)
            return
        origin = {
            "made_by": "dc_tf curate",
            "settings": self._settings,
            "result": self._result,
        }
        view = self._dataset, row_ids, request.output, origin, request.overwrite
        write_view(*view, with_sources=True)

    def _copy(self):
        request = self._request
        if request.materialize is None or request.dry_run:
            return None
        chosen = Dataset.open(request.output) if request.output is not None else self._chosen
        return materialize(chosen, request.materialize, request.format, overwrite=request.overwrite)


def _spread(labels, kept):
    """How evenly rows are spread over classes or clusters, all and those that are kept.

    Returns:
        {"before": ..., "after": ...}, each of entropy in nats, number of classes that have rows,
        and the share of the largest; None without labels.
    """
    labelled = labels >= 0
    if not labelled.any():
        return None
    count = int(labels.max()) + 1
    return {
        name: _statistics(np.bincount(labels[mask], minlength=count))
        for name, mask in (("before", labelled), ("after", labelled & kept))
    }


def _statistics(counts):
    found = count_statistics(counts)
    return {
        "entropy": found["entropy"],
        "used": len(counts) - found["empty"],
        "largest_share": found["largest_share"],
    }
