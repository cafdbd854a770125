"""Features of a run's own network over its data set, kept in the run folder.

    features = for_run("/runs/mine", layer="conv13")     # embeds, or opens what is there

`RUN/embeddings/conv13.json` names the checkpoint and the data set that the features in
`RUN/embeddings/conv13/` belong to. Features of an older checkpoint are replaced. Workers that the
caller has joined share the images; an interrupted call resumes.
"""

import contextlib
import hashlib
import os
import sys

from dc_tf import atomic, experiment, paths
from dc_tf.clustering.store.feature_files import Features, open_folder
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE, all_agree
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation import remembered
from dc_tf.evaluation.frozen.embed import choose_layers
from dc_tf.evaluation.frozen.start import embed_files
from dc_tf.evaluation.models import network_class, open_model
from dc_tf.run_dir import RunDir, check_run
from dc_tf.training.checkpoint import find_checkpoint


def for_run(run, layer=None, data=None, cells=1, mirror=False, comm=None) -> Features:
    """Opens the features of a run's newest checkpoint over its data set; embeds them first if
    they are missing or belong to an older one.

    Args:
        run: run folder.
        layer: of the network, such as conv13, fc7, block4_2 or pool; None takes the one that
            `dc_tf evaluate` has measured as the best, the one that is clustered if nothing was
            measured.
        data: the run's data set, where it was moved since the run; None takes the recorded path.
        cells: maps are averaged over `cells` x `cells` cells.
        mirror: average the features of each image and of its mirror image.
        comm: Communicator of the workers that embed, which all make the call; None is this one.

    Raises:
        ConfigError: not a run, not its data set, an unknown layer, or another process is embedding.
        DataError: no checkpoint yet, or corrupt data.
        Preempted: after Ctrl-C; what was embedded is kept.
    """
    comm = comm or ALONE
    with raise_on_all(comm):
        wanted = _Wanted(os.fspath(run), layer, data, cells, mirror, comm.rank == 0)
        there = wanted.open_if_complete()
    if not all_agree(there is not None, comm):
        with contextlib.ExitStack() as end:
            with raise_on_all(comm):
                if comm.rank == 0:
                    wanted.claim(end)
            wanted.embed(comm)
    with raise_on_all(comm):
        return wanted.open()


class _Wanted:
    """Features of a run, which may not be there yet.

    Attributes:
        output: their folder.
    """

    def __init__(self, run, layer, data, cells, mirror, prints_reason):
        check_run(run)
        self._folder = folder = RunDir(run)
        self._dataset = _dataset(folder, data)
        checkpoint = find_checkpoint(folder, experiment.load([folder.config]))
        self._layer = _layer(folder, layer, cells, prints_reason)
        self._cells, self._mirror = cells, mirror
        name = self._layer if cells == 1 else f"{self._layer}-{cells}x{cells}"
        self.output = folder.embeddings(f"{name}-mirror" if mirror else name)
        self._owner = {
            "checkpoint": os.path.basename(checkpoint),
            "weights": _index_digest(checkpoint),
            "data": self._dataset.fingerprint(),
        }

    def open(self) -> Features:
        return open_folder(self.output, self._dataset, self._layer)

    def open_if_complete(self) -> Features | None:
        with contextlib.suppress(ConfigError):  # which are to be made
            if _owner_of(self.output) == self._owner:
                return self.open()
        return None

    def claim(self, end) -> None:
        """Locks the folder until `end`, an ExitStack, and removes features of another owner."""
        paths.check_folder(os.path.dirname(self.output), "--run")
        atomic.make_folder(os.path.dirname(self.output))
        end.enter_context(atomic.locked(f"{self.output}.lock", self.output))
        _remove_outdated(self.output, self._owner)

    def embed(self, comm) -> None:
        """Computes what is missing; all that an earlier call has made is kept."""
        how = {"layers": [self._layer], "cells": self._cells, "mirror": self._mirror}
        embed_files(self._folder.path, self._dataset, self.output, comm=comm, **how)


def _dataset(run, data):
    """The data set of a run, at its recorded path or at `data`."""
    try:
        recorded = atomic.read_json(run.data)
        found = Dataset.open(paths.expand(data or recorded["path"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run.data} cannot be read ({error!r}); restore it from a copy of the run."
        ) from error
    except DataError as error:
        raise ConfigError(f"{error} The run's data set may be named with --data.") from error
    if found.fingerprint() != recorded.get("fingerprint"):
        raise ConfigError(
            f"--run={run.path} was trained on a data set of {recorded.get('fingerprint')}, but "
            f"{found.path} has {found.fingerprint()}; give the run's data set as --data."
        )
    return found


def _layer(run, layer, cells, prints_reason):
    network = network_class(run.path)
    if layer is not None:
        if layer not in network.layer_names:
            raise ConfigError(f"--layer={layer}; use one of {', '.join(network.layer_names)}.")
        return layer
    if not os.path.isfile(os.path.join(run.path, remembered.EVALUATIONS)):
        return network.feature_layer  # without loading the network for its digest
    layers, reason = choose_layers(open_model(run.path), None, cells)
    if prints_reason:
        print(reason, file=sys.stderr, flush=True)
    return layers[0]


def _index_digest(checkpoint):
    """Digest of the index of a checkpoint, which holds a checksum of each of its tensors."""
    with open(os.path.join(checkpoint, "shared.index"), "rb") as file:
        return f"sha256:{hashlib.sha256(file.read()).hexdigest()}"


def _remove_outdated(output, owner):
    """Removes features that do not belong to `owner`, and records that the next ones do."""
    if _owner_of(output) != owner:
        atomic.remove_tree(output)
        atomic.write_json(f"{output}.json", owner)


def _owner_of(output):
    """What the features in a folder belong to; None where that is not known."""
    try:
        return atomic.read_json(f"{output}.json")
    except (OSError, ValueError):
        return None
