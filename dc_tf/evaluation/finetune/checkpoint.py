"""Where a fine-tuning stands, on disk: one folder that is complete or absent.

    states = TuningStates("/models/tuned/seed0", world)
    states.save(tuner, Position(epoch=3, step=120, global_step=720))
    position = states.restore(tuner)       # None where nothing was saved

The first worker writes; all read, so all see the same folder. What is saved is the same on any
number of workers, so fine-tuning goes on with another number than before.
"""

import dataclasses
import os
import re

import numpy as np
import tensorflow as tf

from dc_tf import atomic
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import Communicator
from dc_tf.errors import DataError

_NAME = re.compile(r"step-(\d{10})$")
_POSITION = "position.json"
_ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Position:
    """What comes next.

    Attributes:
        epoch: the number of epochs when all is done.
        step: of the epoch.
        global_step: steps taken.
        sums: tuner.SUMS over the steps of the epoch so far.
        last: means over the last full epoch, {"loss", "hits"}.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    last: dict = dataclasses.field(default_factory=dict)


class TuningStates:
    """The newest state of one fine-tuning.

    Args:
        folder: path; "" saves nothing.
        world: Communicator of the workers, which all make the same calls.
    """

    def __init__(self, folder: str, world: Communicator):
        self._folder = folder
        self._world = world

    def save(self, tuner, position: Position):
        """Writes a state and removes older ones; returns when it is complete."""
        if self._folder and self._world.rank == 0:
            final = os.path.join(self._folder, f"step-{position.global_step:010d}")
            if position.global_step not in _steps(self._folder):
                self._write(tuner, position, final)
        self._world.barrier()

    def restore(self, tuner) -> Position | None:
        """Brings weights and optimizer to the newest state; None without one.

        Raises:
            DataError: it cannot be read.
        """
        newest = _steps(self._folder)[-1:] if self._folder and self._world.rank == 0 else []
        step = int(self._world.broadcast(np.int64(newest[0] if newest else -1)))
        if step < 0:
            return None
        path = os.path.join(self._folder, f"step-{step:010d}")
        try:
            reading = _checkpoint(tuner).read(os.path.join(path, "state"))
            reading.assert_existing_objects_matched()
            values = atomic.read_json(os.path.join(path, _POSITION))
            return Position(**values | {"sums": tuple(values["sums"])})
        except (tf.errors.OpError, AssertionError, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the state of fine-tuning in {path} cannot be read ({error}); remove that folder "
                "to begin again. All workers must see it."
            ) from error

    def _write(self, tuner, position, final):
        staging = atomic.stage_folder(final)
        _checkpoint(tuner).write(os.path.join(staging, "state"))
        atomic.write_json(os.path.join(staging, _POSITION), dataclasses.asdict(position))
        atomic.commit_folder(final, last=_POSITION)
        for name in os.listdir(self._folder):
            if name != os.path.basename(final):
                atomic.remove_tree(os.path.join(self._folder, name))


def refuse_foreign_on_all(folder: str, about: dict, world: Communicator):
    """As `atomic.refuse_foreign` of a work folder, by the first worker for all.

    Args:
        folder: path; "" is none.
        about: JSON-able dict that tells one fine-tuning from another.

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


def _checkpoint(tuner):
    return tf.train.Checkpoint(trunk=tuner.trunk, head=tuner.head, optimizer=tuner.optimizer)


def _steps(folder):
    """Global steps of the complete states, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.exists(os.path.join(folder, name, _POSITION))]
    return sorted(int(found[1]) for name in names if (found := _NAME.match(name)))
