"""Trains the Faster R-CNN of tf-models-official on a trunk, with the package's task and trainer.

model = train(frozen, split, protocol, folder, cluster)
found = detect(model, frozen, split, protocol, folder, world)     # one (k, 6) array per image
"""

import contextlib
import dataclasses
import io
import os

import numpy as np
import tensorflow as tf
from official.core import config_definitions, task_factory, train_lib
from official.vision import registry_imports  # noqa: F401 (registers the tasks)
from official.vision.configs import maskrcnn

from dc_tf import keras
from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.distributed.collectives import Solo, all_gather
from dc_tf.errors import DataError
from dc_tf.evaluation.voc07.backbone import (
    LARGEST_STRIDE,
    TrunkBackbone,
    TrunkSettings,
    model_config,
    smallest_side,
    trainer_config,
)
from dc_tf.evaluation.voc07.records import write_records
from dc_tf.progress import Progress

_TRAIN_SHARDS = 8
_STEPS_PER_LOOP = 50
_ASPECT = 4 / 3  # of most VOC images; converts our short sides to the trainer's long sides


def train(frozen, split, protocol, folder, cluster=None) -> keras.Model:
    """Trains the detector, from a checkpoint in the folder if there is one; returns the model.

    Args:
        frozen: models.FrozenModel, whose convolutions the detector starts from.
        split: VocSplit.
        protocol: detection.Protocol.
        folder: folder for records, initial weights and checkpoints, used by this detector only.
        cluster: the workers; None for a single process.

    Raises:
        DataError: the loss is not finite.
    """
    tf.random.set_seed(protocol.seed)
    rank = cluster.rank if cluster else 0
    params = config_definitions.ExperimentConfig(
        task=task_config(frozen, len(split.classes), protocol, train_side(frozen, protocol)),
        trainer=trainer_config(
            protocol.iterations,
            protocol.learning_rate,
            protocol.drops,
            protocol.drop_factor,
            protocol.momentum,
            protocol.warmup,
            min(_STEPS_PER_LOOP, protocol.iterations),
        ),
    )
    own = os.path.join(folder, f"worker-{rank}")
    backbone = tf.train.Checkpoint(backbone=TrunkBackbone(frozen.trunk))
    params.task.init_checkpoint = backbone.write(os.path.join(own, "backbone"))
    paths = write_records(split, os.path.join(own, split.name), _TRAIN_SHARDS)
    params.task.train_data = _train_data(paths, frozen, protocol)
    strategy = cluster.strategy if cluster else tf.distribute.get_strategy()
    with strategy.scope():
        task = task_factory.get_task(params.task)
    checkpoints = os.path.join(own, "checkpoints")
    with _silence():
        runner = _Runner(strategy, task, "train", params, checkpoints, save_summary=rank == 0)
    _check_same_step(runner.trainer.global_step, cluster)
    what = f"{frozen.name}: {protocol.tune} on {split.name}"
    done = int(runner.trainer.global_step.numpy())
    with Progress(protocol.iterations, what, "steps", enabled=rank == 0, done=done) as progress:
        show = _shows(progress, runner.trainer.global_step)
        runner.controller.train_actions = (*runner.controller.train_actions, show)
        try:
            with _silence():
                model, _ = runner.run()
        except RuntimeError as error:
            if "The loss value is" not in str(error):
                raise
            raise DataError(
                f"the detector's loss is not finite at a learning rate of "
                f"{protocol.learning_rate}; lower learning_rate, or raise warmup."
            ) from error
    return model


class _Runner(train_lib.OrbitExperimentRunner):
    """Each worker saves its own checkpoints and resumes from them.

    In the base class, all workers but the chief write to a temporary folder and cannot resume.
    """

    def _maybe_build_checkpoint_manager(self):
        settings = self.params.trainer
        return tf.train.CheckpointManager(
            self.trainer.checkpoint,
            self.model_dir,
            settings.max_to_keep,
            step_counter=self.trainer.global_step,
            checkpoint_interval=settings.checkpoint_interval,
            init_fn=self.trainer.initialize,
        )


def _check_same_step(step, cluster):
    if cluster is None:
        return
    steps = all_gather(int(step.numpy()), cluster.world)
    if len(set(steps.tolist())) > 1:
        raise DataError(
            f"the workers' checkpoints in workdir are of steps {', '.join(map(str, steps))}; "
            "remove those that not all workers have."
        )


def task_config(frozen, classes, protocol, side) -> maskrcnn.MaskRCNNTask:
    """The task of tf-models-official without data, for square inputs of `side` pixels."""
    model = model_config(classes, side, settings_of(frozen), protocol.head_units)
    # In units of the stride of each level.
    model.anchor.anchor_size = protocol.anchor_size * LARGEST_STRIDE / 2**model.min_level
    model.norm_activation.norm_momentum = protocol.norm_momentum
    model.roi_sampler.num_sampled_rois = protocol.sampled_regions
    regions = model.roi_generator
    regions.num_proposals = regions.test_num_proposals = protocol.proposals
    regions.pre_nms_top_k = regions.test_pre_nms_top_k = 2 * protocol.proposals
    model.detection_generator.max_num_detections = protocol.max_detections
    model.detection_generator.pre_nms_score_threshold = protocol.min_score
    return maskrcnn.MaskRCNNTask(
        model=model,
        losses=maskrcnn.Losses(l2_weight_decay=protocol.weight_decay),
        init_checkpoint_modules="backbone",
        freeze_backbone=protocol.tune == "fc68",
        use_coco_metrics=False,
    )


def settings_of(frozen) -> TrunkSettings:
    """Those of its trunk."""
    names = {field.name for field in dataclasses.fields(TrunkSettings)}
    own = {name: value for name, value in frozen.trunk.settings.items() if name in names}
    return TrunkSettings(
        kind=frozen.trunk.kind,
        folded=frozen.trunk.folded,
        compute_dtype=frozen.compute_dtype,
        **own,
    )


def train_side(frozen, protocol) -> int:
    """Side of the square input that fits an image at the largest training scale."""
    return padded_side(frozen, protocol.train_scales[1])


def padded_side(frozen, scale: int) -> int:
    """Side of the square input that fits a 4:3 image with a short side of `scale` pixels."""
    multiple = smallest_side(frozen.trunk)
    return -(-_long_side(scale) // multiple) * multiple


def detect(model, frozen, split, protocol, folder, world=None) -> list:
    """Detects objects at all test scales; workers share the images, all get all detections.

    Returns:
        One (k, 6) float32 array per image, k <= `max_detections`: top, left, bottom, right in
        pixels of the image, score, class from 0; highest score first.
    """
    world = world or Solo()
    places = row_block(len(split), world.rank, world.size)
    prefix = os.path.join(folder, f"worker-{world.rank}", f"{split.name}-part")
    records = write_records(split, prefix, places=places)
    weights = model.get_weights()
    found = [[] for _ in split.images]
    total = len(places) * len(protocol.test_scales)
    what = f"{frozen.name}: objects of {split.name}"
    with Progress(total, what, "images", enabled=world.rank == 0) as progress:
        for scale in protocol.test_scales if places else ():
            for place, rows in _at_scale(weights, frozen, split, protocol, records, scale):
                found[place].append(rows)
                progress.update(1)
    kept = np.zeros((len(places), protocol.max_detections, 6), np.float32)
    for rows, place in zip(kept, places, strict=True):
        best = merge(np.concatenate(found[place]), protocol.nms_overlap, protocol.max_detections)
        rows[: len(best)] = best
    kept = gather_rows(kept, places, len(split), world)
    return [rows[rows[:, 4] > 0] for rows in kept]


def merge(rows, overlap, most) -> np.ndarray:
    """Non-maximum suppression by class of (n, 6) detections at several scales; best `most`."""
    chosen = []
    for number in np.unique(rows[:, 5]):
        mine = rows[rows[:, 5] == number]
        kept = tf.image.non_max_suppression(mine[:, :4], mine[:, 4], most, overlap).numpy()
        chosen.append(mine[kept])
    rows = np.concatenate(chosen) if chosen else rows
    return rows[np.argsort(-rows[:, 4], kind="stable")][:most]


def _at_scale(weights, frozen, split, protocol, records, scale):
    """Yields (place, (k, 6) rows) of the images in some records."""
    long_side = _long_side(scale)
    config = task_config(frozen, len(split.classes), protocol, padded_side(frozen, scale))
    model = task_factory.get_task(config).build_model()
    model.set_weights(weights)
    # The reader scales to exactly this side and pads to the model's input size.
    config.model.input_size = [long_side, long_side, 3]
    data = maskrcnn.DataConfig(
        input_path=records,
        dtype="float32",
        global_batch_size=protocol.test_batch_size,
        drop_remainder=False,
    )

    @tf.function(reduce_retracing=True)
    def predict(images, sizes, anchors):
        found = model(images, image_shape=sizes, anchor_boxes=anchors, training=False)
        names = ("boxes", "scores", "classes")
        return [found[f"detection_{name}"] for name in names], found["num_detections"]

    for images, labels in task_factory.get_task(config).build_inputs(data):
        info = labels["image_info"]
        outputs, counts = predict(images, info[:, 1, :], labels["anchor_boxes"])
        sources = labels["groundtruths"]["source_id"].numpy()
        for i, place in enumerate(sources):
            boxes, scores, classes = (output[i, : counts[i]].numpy() for output in outputs)
            boxes = boxes / np.tile(info[i, 2].numpy(), 2)
            boxes = np.clip(boxes, 0, np.tile(split.sizes[place], 2))
            rows = np.column_stack([boxes, scores, classes - 1]).astype(np.float32)
            yield int(place), rows[scores > 0]


def _train_data(paths, frozen, protocol):
    side = train_side(frozen, protocol)
    low, high = (_long_side(scale) / side for scale in protocol.train_scales)
    parser = maskrcnn.Parser(aug_rand_hflip=True, aug_scale_min=low, aug_scale_max=high)
    return maskrcnn.DataConfig(
        input_path=paths,
        is_training=True,
        dtype="float32",
        global_batch_size=protocol.batch_size,
        shuffle_buffer_size=1000,
        seed=protocol.seed,
        parser=parser,
    )


def _silence():
    """A context that discards what orbit prints; stdout is reserved for results."""
    return contextlib.redirect_stdout(io.StringIO())


def _shows(progress, global_step):
    """An orbit action that updates the progress."""

    def show(output):
        done = int(global_step.numpy())
        progress.update(done - progress.done, loss=float(output["training_loss"]))

    return show


def _long_side(scale):
    return round(scale * _ASPECT)
