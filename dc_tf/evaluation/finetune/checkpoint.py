"""Checkpoints of fine-tuning: one folder each, either complete or absent.

    checkpoints = FineTuneCheckpoints("/models/tuned/seed0", world)
    checkpoints.save(fine_tuner, Position(epoch=3, step=120, global_step=720))
    position = checkpoints.restore(fine_tuner)       # None if nothing was saved

The chief writes and all workers read, so all need access to the folder. The contents do not depend
on the number of workers, so fine-tuning can resume with a different number.
"""

import dataclasses
import os
import re

import tensorflow as tf

from dc_tf import atomic
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import Communicator, broadcast_number
from dc_tf.errors import DataError

_NAME = re.compile(r"step-(\d{10})$")
_POSITION = "position.json"
_ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Position:
    """The next step to run.

    Attributes:
        epoch: epoch of the step; the number of epochs at the end of fine-tuning.
        step: index of the step in the epoch.
        global_step: number of steps taken.
        sums: `step.SUMS` over the steps of the epoch so far.
        last: means over the last full epoch: {"loss", "hits"}.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    last: dict = dataclasses.field(default_factory=dict)


class FineTuneCheckpoints:
    """Saves and restores the newest state of one fine-tuning.

    Args:
        folder: path; "" disables saving.
        world: Communicator of the workers; all workers must make the same calls.
    """

    def __init__(self, folder: str, world: Communicator):
        self._folder = folder
        self._world = world

    def save(self, fine_tuner, position: Position) -> None:
        """Writes a checkpoint and removes older ones; returns when it is complete."""
        if self._folder and self._world.rank == 0:
            final = os.path.join(self._folder, f"step-{position.global_step:010d}")
            if position.global_step not in _steps(self._folder):
                self._write(fine_tuner, position, final)
        self._world.barrier()

    def restore(self, fine_tuner) -> Position | None:
        """Restores weights and optimizer from the newest checkpoint; None if there is none.

        Raises:
            DataError: the checkpoint cannot be read.
        """
        newest = _steps(self._folder)[-1:] if self._folder and self._world.rank == 0 else []
        step = broadcast_number(newest[0] if newest else -1, self._world)
        if step < 0:
            return None
        path = os.path.join(self._folder, f"step-{step:010d}")
        try:
            reading = _checkpoint(fine_tuner).read(os.path.join(path, "state"))
            reading.assert_existing_objects_matched()
            values = atomic.read_json(os.path.join(path, _POSITION))
            return Position(**values | {"sums": tuple(values["sums"])})
        except (tf.errors.OpError, AssertionError, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the fine-tuning checkpoint {path} cannot be read ({error}); check that all "
                "workers have access to it, or remove that folder to start over."
            ) from error

    def _write(self, fine_tuner, position, final):
        staging = atomic.stage_folder(final)
        _checkpoint(fine_tuner).write(os.path.join(staging, "state"))
        atomic.write_json(os.path.join(staging, _POSITION), dataclasses.asdict(position))
        atomic.commit_folder(final, last=_POSITION)
        for name in os.listdir(self._folder):
            if name != os.path.basename(final):
                atomic.remove_tree(os.path.join(self._folder, name))


def refuse_foreign_on_all(folder: str, about: dict, world: Communicator) -> None:
    """As `atomic.refuse_foreign` of a work folder, by the chief for all.

    Args:
        folder: path; "" for no folder.
        about: JSON-serialisable dict that identifies the fine-tuning.
        world: Communicator of the workers.

    Raises:
        ConfigErrorOnAll: it holds something else.
    """
    if not folder:
        return
    with raise_on_all(world):
        if world.rank == 0:
            atomic.require_mounted(folder, "workdir")
            path = os.path.join(os.path.abspath(folder), _ABOUT)
            atomic.refuse_foreign(path, about, "workdir", "fine-tunings")


def _checkpoint(fine_tuner):
    return tf.train.Checkpoint(
        trunk=fine_tuner.trunk, head=fine_tuner.head, optimizer=fine_tuner.optimizer
    )


def _steps(folder):
    """Global steps of the complete checkpoints, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.exists(os.path.join(folder, name, _POSITION))]
    return sorted(int(found[1]) for name in names if (found := _NAME.match(name)))
