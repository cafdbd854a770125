"""Checkpoints of a run: a folder that is complete or absent, written by all workers together.

    checkpoints = Checkpoints(run, cluster, keep=3)
    checkpoints.save(position, learner)
    found = checkpoints.latest()           # the same on every worker
    checkpoints.restore(found, learner)    # on the same or another number of workers

Folder `step-0000001234`:
    shared.*         trunk, projection, rotation maps of prototypes, their optimizer, super-class
                     head and loss scale; by the chief
    head-0003.*      the sub-class head of super-class 3; by the lowest rank that serves it
    position.json    the position in training and the size of each file; written last

It is written under another name and renamed when every worker has finished its part. A checkpoint
with missing or truncated files is skipped with a warning, and the one before it is used.
"""

import dataclasses
import os
import re

import tensorflow as tf
from absl import logging

from dc_tf import atomic
from dc_tf import experiment as experiment_lib
from dc_tf.clustering.cluster_model import load_clustering
from dc_tf.clustering.kept_clustering import NETWORK
from dc_tf.distributed import heartbeat
from dc_tf.distributed.collectives import broadcast_number
from dc_tf.errors import ConfigError, DataError
from dc_tf.experiment import Experiment
from dc_tf.nn.trunk import Trunk
from dc_tf.nn.trunks import trunk_of
from dc_tf.run_dir import RunDir

_NAME = re.compile(r"step-(\d{10})$")
_POSITION = "position.json"
# Errors that TensorFlow and the system raise when a file cannot be written.
_DISK_ERRORS = (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError)


@dataclasses.dataclass(frozen=True)
class Position:
    """Position in training: the next step to run.

    Attributes:
        stage: index of the stage; the number of stages when the run is finished.
        epoch: of the stage.
        step: of the epoch.
        global_step: steps taken since the run began.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0

    @property
    def stage_begins(self) -> bool:
        """Whether no step of the stage has been taken; only the trunk carries over."""
        return self.epoch == 0 and self.step == 0


class Checkpoints:
    """Saves and finds the checkpoints of one run.

    Args:
        run: RunDir.
        cluster: Cluster; all its workers make the same calls.
        keep: number of newest checkpoints to keep.
    """

    def __init__(self, run, cluster, keep=3):
        self._folder = run.checkpoints
        self._cluster = cluster
        self._keep = keep

    def save(self, position: Position, learner, replace: bool = False) -> None:
        """Writes a checkpoint, all workers at the same step; returns when it is complete.

        Running statistics that differ between workers are replaced by their mean on all workers,
        and weights that differ by rounding by those saved, so that a run that continues equals one
        that is resumed from here.

        Args:
            position: the next step to run.
            learner: Learner.
            replace: whether weights have changed since a checkpoint of the same step.

        Raises:
            DataError: the disk is full or cannot be written; earlier checkpoints are intact.
        """
        try:
            with heartbeat.slow_operation("checkpoint"):
                self._save(position, learner, replace)
        except _DISK_ERRORS as error:
            raise DataError(
                f"the checkpoint of step {position.global_step} cannot be written to "
                f"{self._folder}: {error}. Earlier checkpoints are intact; make room there "
                "and restart."
            ) from error

    def _save(self, position, learner, replace):
        learner.average_statistics()
        learner.align_weights()
        final = os.path.join(self._folder, f"step-{position.global_step:010d}")
        if not replace and self._has(final):
            # No step was taken since: only the position changes.
            if self._cluster.is_chief:
                _write_position(final, position)
            self._cluster.world.barrier()
            return
        staging = atomic.staged_folder(final)
        if self._cluster.is_chief:
            atomic.remove_staged_folders(self._folder)
            atomic.stage_folder(final)
        self._cluster.world.barrier()
        if self._cluster.is_chief:
            _shared(learner).write(os.path.join(staging, "shared"))
        if learner.saves_heads:
            for super_class, head in learner.heads.sub_heads.items():
                tf.train.Checkpoint(head=head).write(_head_path(staging, super_class))
        self._cluster.world.barrier()
        if self._cluster.is_chief:
            _write_position(staging, position)
            atomic.commit_folder(final, last=_POSITION)
            self._prune()
        self._cluster.world.barrier()

    def latest(self) -> str | None:
        """Path of the newest complete checkpoint, as the chief sees it; None without."""
        found = complete_checkpoints(self._folder) if self._cluster.is_chief else []
        newest = int(_NAME.search(found[-1]).group(1)) if found else -1
        newest = broadcast_number(newest, self._cluster.world)
        return os.path.join(self._folder, f"step-{newest:010d}") if newest >= 0 else None

    def restore(self, path: str, learner) -> None:
        """Reads the weights and optimizers that this worker holds."""
        with self._cluster.strategy.scope():
            _shared(learner).read(os.path.join(path, "shared")).assert_existing_objects_matched()
        for super_class, head in learner.heads.sub_heads.items():
            reading = tf.train.Checkpoint(head=head).read(_head_path(path, super_class))
            reading.assert_existing_objects_matched()

    def restore_trunk(self, path: str, trunk: Trunk) -> None:
        """Reads the trunk only, e.g. at the start of a stage."""
        with self._cluster.strategy.scope():
            read_trunk(path, trunk)

    def _prune(self):
        """Removes all but the newest and those at the end of a stage."""
        for path in complete_checkpoints(self._folder)[: -self._keep]:
            if not read_position(path).stage_begins:
                atomic.discard_folder(path, last=_POSITION)

    def _has(self, path: str) -> bool:
        """Whether the chief sees a complete checkpoint at `path`; the same on every worker."""
        seen = self._cluster.is_chief and path in complete_checkpoints(self._folder)
        return bool(broadcast_number(seen, self._cluster.world))


def read_position(path: str) -> Position:
    """The position that the checkpoint at `path` was saved at."""
    return Position(**_read_about(path)["position"])


def complete_checkpoints(folder: str) -> list[str]:
    """Paths of the complete checkpoints in a folder, oldest first; logs the incomplete ones."""
    if not os.path.isdir(folder):
        return []
    names = sorted(name for name in os.listdir(folder) if _NAME.match(name))
    return [path for name in names if _is_whole(path := os.path.join(folder, name))]


def _write_position(folder, position):
    """Writes the file that makes a checkpoint complete."""
    sizes = _sizes(folder)
    sizes.pop(_POSITION, None)
    about = {"position": dataclasses.asdict(position), "bytes": sizes}
    atomic.write_json(os.path.join(folder, _POSITION), about)


def _read_about(path) -> dict:
    return atomic.read_json(os.path.join(path, _POSITION))


def _is_whole(path) -> bool:
    """Whether every file of a checkpoint exists with the size it was written with."""
    try:
        about = _read_about(path)
        found = _sizes(path)
        wrong = [name for name, size in about["bytes"].items() if found.get(name) != size]
    except (OSError, ValueError, KeyError) as error:
        wrong = [f"{_POSITION} ({error})"]
    if wrong:
        logging.warning("%s is corrupt and is not used: %s", path, ", ".join(wrong))
    return not wrong


def _sizes(folder) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}


def read_trunk(path: str, trunk: Trunk) -> None:
    """Fills `trunk` from the checkpoint at `path`."""
    _read_trunk(os.path.join(path, "shared"), trunk)


def _read_trunk(prefix, trunk):
    reading = tf.train.Checkpoint(trunk=trunk).read(prefix)
    reading.assert_existing_objects_matched().expect_partial()


def load_trunk(workdir: str, after_stage: str = "") -> tuple[Trunk, Experiment]:
    """The trained trunk of a run, for use without the run, and the run's settings.

    Args:
        workdir: run folder.
        after_stage: name of a finished stage; by default the newest checkpoint is read.

    Raises:
        ConfigError: the run has no stage of that name.
        DataError: the folder is not a run folder, or has no such checkpoint yet.
    """
    run = RunDir(workdir)
    if not os.path.exists(run.config):
        raise DataError(f"{workdir} is not a run folder: it has no {os.path.basename(run.config)}.")
    experiment = experiment_lib.load([run.config])
    trunk = new_trunk(experiment).built_at_resolution()
    read_trunk(find_checkpoint(run, experiment, after_stage), trunk)
    return trunk, experiment


def load_trunk_of_clustering(
    workdir: str, round: int | None = None, stage: int | None = None
) -> tuple[Trunk, Experiment]:
    """The trunk whose features a kept clustering has clustered, and the run's settings.

    `projection.projection_of_clustering` loads the projection above it.

    Args:
        workdir: run folder.
        round, stage: as in `cluster_model.load_clustering`.

    Raises:
        ConfigError, DataError: as in `cluster_model.load_clustering`.
    """
    run = RunDir(workdir)
    path = load_clustering(run, round, stage).path
    experiment = experiment_lib.load([run.config])
    trunk = new_trunk(experiment).built_at_resolution()
    _read_trunk(os.path.join(path, NETWORK), trunk)
    return trunk, experiment


def find_checkpoint(run, experiment, after_stage="") -> str:
    """Path of a run's newest complete checkpoint, or of the one at the end of a stage.

    Raises:
        ConfigError, DataError: as in `load_trunk`.
    """
    found = complete_checkpoints(run.checkpoints)
    if after_stage:
        names = [stage.name for stage in experiment.stages]
        if after_stage not in names:
            raise ConfigError(f"the run has no stage {after_stage!r}; its stages are {names}.")
        end = names.index(after_stage) + 1
        positions = {path: read_position(path) for path in found}
        found = [path for path, p in positions.items() if p.stage_begins and p.stage == end]
    if not found:
        what = f"finished {after_stage}" if after_stage else "a complete checkpoint"
        raise DataError(f"{run.path} has not {what} yet; run `dc_tf train` until it has.")
    return found[-1]


def new_trunk(experiment) -> Trunk:
    """The experiment's network with its initial weights."""
    return trunk_of(experiment.model, experiment.seed)


def _shared(learner) -> tf.train.Checkpoint:
    parts = {
        "trunk": learner.trunk,
        "optimizer": learner.trunk_optimizer,
        "super_head": learner.heads.super_head,
    }
    prototypes = learner.heads.prototypes
    optional = {
        "projection": learner.projection,
        "rotation_maps": prototypes and prototypes.maps,
        "loss_scale": learner.loss_scale,
    }
    parts |= {name: part for name, part in optional.items() if part is not None}
    return tf.train.Checkpoint(**parts)


def _head_path(folder: str, super_class: int) -> str:
    return os.path.join(folder, f"head-{super_class:04d}")
