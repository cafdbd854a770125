"""Trains the Faster R-CNN of tf-models-official on our trunk, through its own task and trainer.

model = train(subject, split, protocol, folder, cluster)
found = detect(model, subject, split, protocol, folder, world)     # one (k, 6) array an image
"""

import contextlib
import io
import os

import numpy as np
import tensorflow as tf
from official.core import config_definitions, task_factory, train_lib
from official.vision import registry_imports  # noqa: F401 (registers the tasks)
from official.vision.configs import maskrcnn

from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collectives import Solo, all_gather
from dc_tf.errors import DataError
from dc_tf.evaluation.voc07.backbone import (
    STRIDE,
    Backbone,
    Vgg16,
    VggBackbone,
    model_config,
    trainer_config,
)
from dc_tf.evaluation.voc07.records import write_records
from dc_tf.export.fold_sobel import FoldedVGG16
from dc_tf.progress import Progress

_TRAIN_SHARDS = 8
_STEPS_PER_LOOP = 50
_ASPECT = 4 / 3  # of most images of VOC: scales are short sides, the trainer's are long ones


def train(subject, split, protocol, folder, cluster=None):
    """Trains, or goes on where a checkpoint in the folder is; returns the Keras model.

    Args:
        subject: models.Subject, whose convolutions the detector starts from.
        split: VocSplit.
        protocol: voc07_detection.Protocol.
        folder: of this detector alone; records, starting weights and checkpoints go there.
        cluster: the workers; None for one alone.

    Raises:
        DataError: the loss is not finite.
    """
    tf.random.set_seed(protocol.seed)
    rank = cluster.rank if cluster else 0
    params = config_definitions.ExperimentConfig(
        task=task_config(subject, len(split.classes), protocol, train_side(protocol)),
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
    backbone = tf.train.Checkpoint(backbone=VggBackbone(subject.trunk))
    params.task.init_checkpoint = backbone.write(os.path.join(own, "backbone"))
    paths = write_records(split, os.path.join(own, split.name), _TRAIN_SHARDS)
    params.task.train_data = _train_data(paths, protocol)
    strategy = cluster.strategy if cluster else tf.distribute.get_strategy()
    with strategy.scope():
        task = task_factory.get_task(params.task)
    checkpoints = os.path.join(own, "checkpoints")
    with _silence():
        runner = _Runner(strategy, task, "train", params, checkpoints, save_summary=rank == 0)
    _check_same_step(runner.trainer.global_step, cluster)
    what = f"{subject.name}: {protocol.tune} on {split.name}"
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
    """Each worker keeps its checkpoints and goes on from them.

    In tf-models' own, all but the first write theirs to a folder that they never find again.
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
            f"the workers' checkpoints in workdir are of steps {', '.join(map(str, steps))}; take "
            "away those that not all of them have."
        )


def task_config(subject, classes, protocol, side) -> maskrcnn.MaskRCNNTask:
    """The task of tf-models-official without data, for square inputs of a side in pixels."""
    settings = subject.trunk.settings
    network = Vgg16(
        width=settings["width"],
        sobel=settings["sobel"],
        folded=isinstance(subject.trunk, FoldedVGG16),
        compute_dtype=subject.compute_dtype,
    )
    model = model_config(classes, side, Backbone(dc_tf_vgg16=network), protocol.head_units)
    model.anchor.anchor_size = protocol.anchor_size
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


def train_side(protocol) -> int:
    """Side of the square that holds an image at the largest training scale."""
    return padded_side(protocol.train_scales[1])


def padded_side(scale: int) -> int:
    """Side of the square that holds an image whose short side, were it 4:3, has `scale` pixels."""
    return _padded(_long_side(scale))


def detect(model, subject, split, protocol, folder, world=None) -> list:
    """Finds objects at all test scales; each worker looks at some images, all return all.

    Returns:
        One (k, 6) float32 array an image, k up to `max_detections`: top, left, bottom, right in
        pixels of the image, score, class from 0; best first.
    """
    world = world or Solo()
    places = row_block(len(split), world.rank, world.size)
    prefix = os.path.join(folder, f"worker-{world.rank}", f"{split.name}-part")
    records = write_records(split, prefix, places=places)
    weights = model.get_weights()
    found = [[] for _ in split.images]
    total = len(places) * len(protocol.test_scales)
    what = f"{subject.name}: objects of {split.name}"
    with Progress(total, what, "images", enabled=world.rank == 0) as progress:
        for scale in protocol.test_scales if places else ():
            for place, rows in _at_scale(weights, subject, split, protocol, records, scale):
                found[place].append(rows)
                progress.update(1)
    kept = np.zeros((len(split), protocol.max_detections, 6), np.float32)
    for place in places:
        best = merge(np.concatenate(found[place]), protocol.nms_overlap, protocol.max_detections)
        kept[place, : len(best)] = best
    return [rows[rows[:, 4] > 0] for rows in world.all_sum(kept).numpy()]


def merge(rows, overlap, most):
    """Of (n, 6) detections at several scales those that no better one of their class overlaps."""
    chosen = []
    for number in np.unique(rows[:, 5]):
        mine = rows[rows[:, 5] == number]
        kept = tf.image.non_max_suppression(mine[:, :4], mine[:, 4], most, overlap).numpy()
        chosen.append(mine[kept])
    rows = np.concatenate(chosen) if chosen else rows
    return rows[np.argsort(-rows[:, 4], kind="stable")][:most]


def _at_scale(weights, subject, split, protocol, records, scale):
    """Yields (place, (k, 6) rows) of the images in some records."""
    long_side = _long_side(scale)
    config = task_config(subject, len(split.classes), protocol, padded_side(scale))
    model = task_factory.get_task(config).build_model()
    model.set_weights(weights)
    # The reader scales to exactly this side and pads to what the model takes.
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


def _train_data(paths, protocol):
    side = train_side(protocol)
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
    """A context in which orbit's reports do not get between our lines; stdout is for results."""
    return contextlib.redirect_stdout(io.StringIO())


def _shows(progress, global_step):
    """An action of orbit that shows how far training is."""

    def show(output):
        done = int(global_step.numpy())
        progress.update(done - progress.done, loss=float(output["training_loss"]))

    return show


def _long_side(scale):
    return round(scale * _ASPECT)


def _padded(side):
    return -(-side // STRIDE) * STRIDE
