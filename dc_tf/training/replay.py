"""Reproduces the global batch of one step of a run: images, labels and pixels.

    step = find_step(run)                   # the one whose loss was not finite
    batch = replay(run, step)
    batch.draws.row, batch.images

The batch follows from the seeds and the clusters of its round. Reproducing it needs neither a GPU
nor other workers, and does not depend on the run's number of workers.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from dc_tf import atomic
from dc_tf import experiment as experiment_lib
from dc_tf.clustering.assignments import Assignments, is_complete
from dc_tf.data.input.draws import Draws
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.errors import ConfigError, DataError
from dc_tf.planning.stages import plan_stages
from dc_tf.training.loop import make_batches, make_sampler


@dataclasses.dataclass(frozen=True)
class Batch:
    """The global batch of a step, ordered by super-class.

    Attributes:
        stage, epoch, step: name of the stage, and epoch and step in it, counted from 0.
        draws: Draws of its b images.
        rotations: of the stage; super-class = cluster * rotations + rotation.
        views: (b, side, side, 3) float32 in [0, 1] of each view, the input of the network.
        image_rows: b row ids of these images; another row than was drawn where that is corrupt.
        sources: b texts, the files of these images.
        dataset: Dataset of the run.
    """

    stage: str
    epoch: int
    step: int
    draws: Draws
    rotations: int
    views: tuple[np.ndarray, ...]
    image_rows: tuple[int, ...]
    sources: tuple[str, ...]
    dataset: Dataset

    @property
    def images(self) -> np.ndarray:
        """(b, r, r, 3), the first view of each image."""
        return self.views[0]

    def rows(self) -> list[dict]:
        """JSON-ready, one for each image."""
        _, entries = self.dataset.locate(self.draws.row)
        names = self.dataset.class_names
        return [
            {
                "row": int(row),
                "record": self.dataset.describe(int(row)),
                "source": source,
                "replaced_by": image_row if image_row != row else None,
                "label": names[label] if names and label >= 0 else int(label),
                "cluster": int(super_id) // self.rotations,
                "sub_cluster": int(np.ravel(sub_id)[0]),  # of the first clustering
                "quarter_turns": int(turns),
                "mean": float(pixels.mean()),
                "deviation": float(pixels.std()),
            }
            for row, image_row, source, label, super_id, sub_id, turns, pixels in zip(
                self.draws.row,
                self.image_rows,
                self.sources,
                entries[:, 2],
                self.draws.super_id,
                self.draws.sub_id,
                self.draws.rotation,
                self._pixels(),
                strict=True,
            )
        ]

    def _pixels(self):
        """(b, n), the values of all views of each image."""
        return np.concatenate([view.reshape(len(view), -1) for view in self.views], 1)


def find_step(run) -> int:
    """The global step at which a run's loss was not finite.

    Raises:
        ConfigError: no loss was infinite or NaN.
    """
    if not os.path.exists(run.failed_step):
        raise ConfigError(f"{run.path} has no failed step; name one with --step.")
    return atomic.read_json(run.failed_step)["global_step"]


def replay(run, step: int) -> Batch:
    """The batch of global step `step` of a run, counted from 1.

    Raises:
        ConfigError: not a run folder, or the run has no such step.
        DataError: the assignments of that round are missing, or an image cannot be read.
    """
    if not os.path.exists(run.config):
        name = os.path.basename(run.config)
        raise ConfigError(f"{run.path} is not a run folder: it has no {name}.")
    experiment = experiment_lib.load([run.config])
    dataset = Dataset.open(experiment.data.path)
    plans = plan_stages(experiment, dataset.rows, 1)
    index, epoch, place = _locate(experiment, plans, dataset.rows, step)
    stage, plan = experiment.stages[index], plans[index]
    assignments = _assignments(run, index, stage, epoch)
    sampler = make_sampler(experiment, index, plan, dataset.rows, assignments)
    draws = sampler.epoch(epoch, 0)
    records = RowReader(dataset)
    reader = FallbackRows(records, experiment.data.max_bad_share)
    batches = make_batches(experiment, stage, reader, plan, draws, start_step=place)
    with data_errors():
        views = _views(next(iter(batches)), stage.views)
    part = slice(place * plan.batch_size, (place + 1) * plan.batch_size)
    draws = Draws(*(column[part] for column in draws))
    rows = tuple(reader.replacement(int(row)) for row in draws.row)
    sources = tuple(records.sources(rows))
    return Batch(stage.name, epoch, place, draws, plan.rotations, views, rows, sources, dataset)


def _views(batch, settings):
    """The images of each view, global views first."""
    if settings.count == 1:
        return (batch["image"].numpy(),)
    names = ["image", "local_image"] if settings.local_views else ["image"]
    return tuple(view.numpy() for name in names for view in tf.unstack(batch[name], axis=1))


def _locate(experiment, plans, rows, step):
    """(index of the stage, epoch in it, step in the epoch) of global step `step`."""
    before = 0
    for index, (stage, plan) in enumerate(zip(experiment.stages, plans, strict=True)):
        steps = plan.steps(rows)
        if 0 < step - before <= stage.epochs * steps:
            return index, *divmod(step - before - 1, steps)
        before += stage.epochs * steps
    raise ConfigError(f"--step is {step}; use one of the steps of the run, 1 to {before}.")


def _assignments(run, index, stage, epoch) -> Assignments | None:
    if not stage.clustered:
        return None
    folder = run.clustering(index, stage.round_of(epoch)[0])
    if not is_complete(folder):
        raise DataError(
            f"{folder}, which has the clusters of that step, is missing; restore it, or replay "
            "another step."
        )
    return Assignments.open(folder)
