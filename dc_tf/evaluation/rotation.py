"""Accuracy of the pretext task: predicting the rotation of held-out images.

The task applies the network and the super-class head V of a run's checkpoint to the centre crop of
every image, in each rotation of the stage. No labels are needed. The training log has the same
accuracy on random crops of the training images.

    dc_tf evaluate --task=rotation --model=RUN --stage=rotnet --test=DATA

Reference: Caron et al. 2019, Eq. 1 and 5.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from dc_tf import experiment as experiment_lib
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.errors import ConfigError
from dc_tf.evaluation.cost import Part, Work
from dc_tf.evaluation.work import wait
from dc_tf.progress import Progress
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import find_checkpoint, read_position

_SAMPLED = 128  # largest number of images of a cost sample


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings.

    Attributes:
        batch_size: images per batch; each goes through the network in all rotations.
    """

    batch_size: int = 128

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; use at least 1.")


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    if not request.test:
        raise ConfigError("--test is missing; give a data set (labels are not needed).")
    dataset = Dataset.open(request.test)
    kernel, bias, rotations = read_head(request.model, request.stage)
    frozen = request.frozen_model()
    images = evaluation_batches(
        RowReader(dataset),
        range(dataset.rows),
        protocol.batch_size,
        frozen.resolution,
        frozen.short_side,
    )
    forward = tf.function(
        lambda x: frozen.trunk(x, training=False)[frozen.trunk.feature_layer],
        autograph=False,
        reduce_retracing=True,
    )
    request.announce(lambda: work(forward, frozen, images, dataset.rows, rotations), networks=1)
    hits = np.zeros(rotations)
    with data_errors(), Progress(dataset.rows, "rotation", "images") as progress:
        for batch in images:
            for turn in range(rotations):
                # Quarter turns counter-clockwise; with two rotations the second is 180 degrees.
                turned = tf.image.rot90(batch["image"], turn * 4 // rotations)
                logits = tf.nn.relu(forward(turned)) @ kernel + bias
                hits[turn] += np.sum(np.argmax(logits, 1) % rotations == turn)
            progress.update(len(batch["row"]))
    shares = (hits / dataset.rows).tolist()
    accuracy = float(np.mean(shares))
    result = {"rows": dataset.rows, "rotation_accuracy": accuracy, "by_rotation": shares}
    return result, f"rotation accuracy, {dataset.rows} images: {100 * accuracy:.2f} %"


def work(forward, frozen, images, rows, rotations) -> Work:
    """The work: every image in every rotation."""

    def sample(turned):
        with data_errors():
            for batch in images.unbatch().take(turned).batch(turned):
                wait(forward(batch["image"]))
        return turned

    text = f"{rows:,} images at {frozen.resolution} pixels, {rotations} rotations"
    return Work(text, (Part("turned images", rotations * rows, sample, min(rows, _SAMPLED)),))


def read_head(model, stage) -> tuple[np.ndarray, np.ndarray, int]:
    """Head V of a run: (d, S) kernel, (S,) bias, and the number of rotations.

    Raises:
        ConfigError: not a run, or the stage has no head for rotations.
        DataError: the run has no checkpoint of the stage yet.
    """
    folder = RunDir(model)
    if not os.path.isfile(folder.config):
        raise ConfigError(f"--model={model} is not a run of 'dc_tf train'; rotation needs one.")
    experiment = experiment_lib.load([folder.config])
    path = find_checkpoint(folder, experiment, stage)
    position = read_position(path)
    made_in = experiment.stages[position.stage - position.stage_begins]
    if made_in.rotations < 2 or made_in.loss == "product":
        raise ConfigError(
            f"stage {made_in.name} has no head of its own for rotations; name another with --stage."
        )
    reader = tf.train.load_checkpoint(os.path.join(path, "shared"))
    kernel, bias = (
        reader.get_tensor(f"super_head/head/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        for name in ("kernel", "bias")
    )
    return kernel, bias, made_in.rotations
