"""Where a fine-tuning stands, on disk: one folder that is complete or absent.

    states = FineTuneCheckpoints("/models/tuned/seed0", world)
    states.save(fine_tuner, Position(epoch=3, step=120, global_step=720))
    position = states.restore(fine_tuner)       # None where nothing was saved

The first worker writes; all read, so all see the same folder. What is saved is the same on any
number of workers, so fine-tuning goes on with another number than before.
"""

import dataclasses
import os
import re

import numpy as np
import tensorflow as tf

from dc_tf import run_dir
from dc_tf.distributed.collectives import Communicator, all_agree
from dc_tf.errors import ConfigError, DataError

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
        sums: fine_tuner.SUMS over the steps of the epoch so far.
        last: means over the last full epoch: {"loss", "accuracy"}.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    last: dict = dataclasses.field(default_factory=dict)


class FineTuneCheckpoints:
    """The newest state of one fine-tuning.

    Args:
        folder: path; "" saves nothing.
        world: Communicator of the workers, which all make the same calls.
    """

    def __init__(self, folder: str, world: Communicator):
        self._folder = folder
        self._world = world

    def save(self, fine_tuner, position: Position):
        """Writes a state and removes older ones; returns when it is complete."""
        if self._folder and self._world.rank == 0:
            final = os.path.join(self._folder, f"step-{position.global_step:010d}")
            if position.global_step not in _steps(self._folder):
                self._write(fine_tuner, position, final)
        self._world.barrier()

    def restore(self, fine_tuner) -> Position | None:
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
            reading = _checkpoint(fine_tuner).read(os.path.join(path, "state"))
            reading.assert_existing_objects_matched()
            values = run_dir.read_json(os.path.join(path, _POSITION))
            return Position(**values | {"sums": tuple(values["sums"])})
        except (tf.errors.OpError, AssertionError, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the state of fine-tuning in {path} cannot be read ({error}); remove that folder "
                "to begin again. All workers must see it."
            ) from error

    def _write(self, fine_tuner, position, final):
        aside = final + ".partial"
        run_dir.remove_tree(aside)
        os.makedirs(aside)
        _checkpoint(fine_tuner).write(os.path.join(aside, "state"))
        run_dir.write_json(os.path.join(aside, _POSITION), dataclasses.asdict(position))
        run_dir.sync_tree(aside)
        run_dir.remove_tree(final)  # half of one
        run_dir.rename_tree(aside, final, order=lambda name: name == _POSITION)
        run_dir.sync_folder(self._folder)
        for name in os.listdir(self._folder):
            if name != os.path.basename(final):
                run_dir.remove_tree(os.path.join(self._folder, name))


def claim(folder: str, about: dict, world: Communicator):
    """Makes a work folder, or recognises it as that of an earlier call for the same.

    Args:
        folder: path; "" is none.
        about: JSON-able dict that tells one fine-tuning from another.

    Raises:
        ConfigError: it holds something else.
    """
    if not folder:
        return
    refusal = None
    if world.rank == 0:
        try:
            path = os.path.join(os.path.abspath(folder), _ABOUT)
            run_dir.claim(path, about, "workdir", "fine-tunings")
        except ConfigError as error:
            refusal = error
    if not all_agree(refusal is None, world):  # no worker waits for one that has given up
        raise refusal or ConfigError("workdir was refused; the first worker says why.")


def _checkpoint(fine_tuner):
    return tf.train.Checkpoint(
        trunk=fine_tuner.trunk, head=fine_tuner.head, optimizer=fine_tuner.optimizer
    )


def _steps(folder):
    """Global steps of the complete states, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.exists(os.path.join(folder, name, _POSITION))]
    return sorted(int(found[1]) for name in names if (found := _NAME.match(name)))
