import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import devkit
import numpy as np
import pytest
import task_protocol
import tensorflow as tf
import workers
from official.core import exp_factory
from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder
from official.vision.tasks.maskrcnn import MaskRCNNTask

from dc_tf.commands.main import main
from dc_tf.data.voc.devkit import read_splits
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.models import open_model, random_init
from dc_tf.evaluation.voc07 import backbone as voc07_backbone
from dc_tf.evaluation.voc07 import detection as voc07_detection
from dc_tf.evaluation.voc07 import detector
from dc_tf.evaluation.voc07.records import write_records
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.exporting.weights import STATISTICS, named_weights
from dc_tf.nn.trunks import make_trunk
from dc_tf.nn.vgg16 import CONV_LAYERS, VGG16

CONFIGS = pathlib.Path(__file__).resolve().parents[3] / "configs" / "evaluation"
TINY = voc07_detection.Protocol(
    paper="voc07",
    iterations=2,
    drops=(1,),
    learning_rate=0.01,
    train_scales=(40, 48),
    test_scales=(48,),
    test_batch_size=3,
    anchor_size=1.0,
    head_units=8,
    proposals=20,
    sampled_regions=8,
    min_score=0.01,
    max_detections=10,
)


def small_trunk(seed=7):
    return VGG16(width=1 / 16, resolution=32, fc=8, seed=seed).built_at_resolution()


def weights_of(convs):
    """{layer: {name: array}} of the convolutions of a backbone of VGG-16."""
    names = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    found = {}
    for layer, conv in zip(CONV_LAYERS, convs, strict=True):
        norm = conv.norm
        values = (conv.conv.kernel, conv.conv.bias, norm.gamma, norm.beta)
        values += (norm.moving_mean, norm.moving_variance)
        found[layer] = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return found


def measured(cluster, model, kit, protocol, folder):
    splits = read_splits(kit, ("trainval", "test"))
    return voc07_detection.evaluate(open_model(model), *splits, protocol, folder, cluster)


def detected(cluster, model, kit, protocol, folder):
    """The metrics, and the detections of several workers and of one with the same detector."""
    detect, shared = detector.detect, []

    def detect_twice(*args):
        *same, at, world = args
        shared.append(detect(*args))
        shared.append(detect(*same, os.path.join(at, f"alone-{world.rank}"), None))
        return shared[0]

    with mock.patch.object(detector, "detect", detect_twice):
        metrics = measured(cluster, model, kit, protocol, folder)
    return metrics, *shared


class BackboneTest(tf.test.TestCase):
    def test_level_four_is_conv13_and_the_others_are_pooled_from_it(self):
        trunk = VGG16(width=1 / 16, resolution=64, fc=8).built_at_resolution()
        images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
        backbone = voc07_backbone.TrunkBackbone(trunk, (64, 64))
        maps = backbone(trunk.normalize(images))
        self.assertAllClose(maps["4"], trunk(images)["conv13"], atol=1e-5)
        self.assertAllClose(maps["6"], np.max(maps["4"], (1, 2), keepdims=True))
        shapes = {level: tuple(shape[1:]) for level, shape in backbone.output_specs.items()}
        self.assertEqual(shapes, {level: tuple(m.shape[1:]) for level, m in maps.items()})

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_last_map_of_any_trunk_has_at_most_sixteen_pixels_of_stride(self):
        images = np.random.default_rng(0).random((2, 64, 128, 3), np.float32)
        for kind, stem, levels in (
            ("vgg16", "imagenet", "456"),
            ("resnet18", "imagenet", "456"),
            ("resnet50", "small", "345"),
        ):
            settings = voc07_backbone.TrunkSettings(kind=kind, width=1 / 16, stem=stem)
            trunk = voc07_backbone.detection_trunk(settings)
            backbone = voc07_backbone.TrunkBackbone(trunk, (64, 128))
            maps = backbone(trunk.normalize(images))
            self.assertEqual("".join(maps), levels)
            shapes = {level: tuple(shape[1:]) for level, shape in backbone.output_specs.items()}
            self.assertEqual(shapes, {level: tuple(m.shape[1:]) for level, m in maps.items()})
            self.assertEqual(maps[levels[0]].shape[1], 64 // trunk.stride)
            config = voc07_backbone.model_config(20, settings=settings)
            self.assertEqual(
                (config.min_level, config.max_level), (int(levels[0]), int(levels[-1]))
            )

    def test_a_dilated_backbone_takes_the_weights_of_a_trunk_and_trains_all_convolutions(self):
        trunk = make_trunk("resnet18", width=1 / 16, resolution=64).built_at_resolution()
        path = os.path.join(self.get_temp_dir(), "backbone")
        saved = tf.train.Checkpoint(backbone=voc07_backbone.TrunkBackbone(trunk)).write(path)
        settings = voc07_backbone.TrunkSettings(kind="resnet18", width=1 / 16)
        dilated = voc07_backbone.detection_trunk(settings)
        self.assertTrue(dilated.dilated)
        backbone = voc07_backbone.TrunkBackbone(dilated, (64, 64))
        images = trunk.normalize(np.random.default_rng(0).random((2, 64, 64, 3), np.float32))
        backbone(images)
        tf.train.Checkpoint(backbone=backbone).read(saved).assert_consumed()
        expected = trunk.normalized_maps(images, training=False)["block4_2"]
        with tf.GradientTape() as tape:
            found = backbone(images, training=True)["4"]
            loss = tf.reduce_sum(found**2)
        self.assertAllClose(found[:, ::2, ::2], expected, atol=1e-5)
        for gradient in tape.gradient(loss, backbone.trainable_variables):
            self.assertGreater(tf.norm(gradient), 0.0)

    def test_batch_norm_is_frozen_in_training_too(self):
        trunk = small_trunk()
        backbone = voc07_backbone.TrunkBackbone(trunk)
        before = weights_of(backbone.convolutions)
        images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
        self.assertAllEqual(backbone(images, training=True)["4"], backbone(images)["4"])
        after = weights_of(backbone.convolutions)
        self.assertAllEqual(after["conv1"]["moving_mean"], before["conv1"]["moving_mean"])

    def test_the_registered_experiment_has_the_papers_settings(self):
        params = exp_factory.get_exp_config(voc07_backbone.EXPERIMENT)
        self.assertEqual(params.trainer.train_steps, 150_000)
        rate = params.trainer.optimizer_config.learning_rate.stepwise
        self.assertEqual((rate.boundaries, rate.values), ([50_000], [0.01, 0.001]))
        self.assertEqual(params.task.losses.l2_weight_decay, 1e-4)
        side, parser = params.task.model.input_size[0], params.task.train_data.parser
        scales = (parser.aug_scale_min * side * 3 / 4, parser.aug_scale_max * side * 3 / 4)
        self.assertAllClose(scales, (400, 700))
        self.assertTrue(params.task.freeze_backbone)


@pytest.mark.slow
class Voc07DetectionTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = folder.name
        cls.kit = devkit.draw(os.path.join(cls.root, "kit"), {"trainval": 6, "test": 5})
        cls.model = os.path.join(cls.root, "model")
        export_saved_model(small_trunk(), cls.model)
        cls.splits = read_splits(cls.kit, ("trainval", "test"))

    def folder(self):
        return tempfile.mkdtemp(dir=self.root)

    def call(self, *flags):
        out, err = io.StringIO(), io.StringIO()
        paths = ["--task=voc07_detection", f"--model={self.model}", f"--train={self.kit}"]
        settings = dataclasses.asdict(TINY)
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["evaluate", *paths, f"--params_override={json.dumps(settings)}", *flags])
        return code, out.getvalue(), err.getvalue()

    def test_records_hold_what_the_decoder_of_tf_models_reads(self):
        split = self.splits[0]
        paths = write_records(split, os.path.join(self.folder(), "train"), shards=2)
        self.assertLen(paths, 2)
        decoder, seen = TfExampleDecoder(), []
        for record in tf.data.TFRecordDataset(paths):
            found = decoder.decode(record)
            place = int(found["source_id"].numpy())
            objects, size = split.objects[place], split.sizes[place]
            seen.append(place)
            self.assertAllEqual(found["image"].shape[:2], size)
            self.assertAllClose(found["groundtruth_boxes"] * np.tile(size, 2), objects.boxes)
            self.assertAllEqual(found["groundtruth_classes"], objects.classes + 1)
            self.assertAllEqual(found["groundtruth_is_crowd"], objects.difficult)
        self.assertCountEqual(seen, range(6))

    @pytest.mark.extended
    def test_fc68_keeps_the_convolutions_and_all_trains_them(self):
        for tune in ("fc68", "all"):
            # From a model and from random weights, what is trained starts from what was given.
            frozen = open_model(self.model)
            frozen = random_init(frozen, seed=3) if tune == "all" else frozen
            before = weights_of(voc07_backbone.convolutions_of(frozen.trunk))
            protocol = dataclasses.replace(TINY, tune=tune, iterations=1, learning_rate=1e-3)
            model = detector.train(frozen, self.splits[0], protocol, self.folder())
            after = weights_of(model.backbone.convolutions)
            for layer in CONV_LAYERS:
                for name, value in before[layer].items():
                    if tune == "fc68" or name in STATISTICS:
                        self.assertAllEqual(after[layer][name], value, f"{layer} {name}")
                    else:
                        self.assertAllClose(after[layer][name], value, atol=0.05)
            changed = not np.array_equal(after["conv1"]["kernel"], before["conv1"]["kernel"])
            self.assertEqual(changed, tune == "all")
            self.assertAllEqual(
                named_weights(frozen.trunk)["conv1"]["kernel"], before["conv1"]["kernel"]
            )

    def test_boxes_come_back_in_the_pixels_of_the_image(self):
        class Whole:
            """Finds the whole image of 40 x 56 pixels, and an object in its upper left quarter.

            The reader scales it to a long side that it says is that of the image's both.
            """

            def set_weights(self, weights):
                pass

            def __call__(self, images, image_shape, anchor_boxes, training):
                count = tf.shape(images)[0]
                whole = tf.tile([[0.0, 0.0, 40 / 56, 1.0]], [count, 1]) * image_shape[:, :1]
                boxes = tf.stack([whole, whole / 2], 1)
                return {
                    "detection_boxes": boxes,
                    "detection_scores": tf.tile([[0.5, 0.9]], [count, 1]),
                    "detection_classes": tf.tile([[1, 2]], [count, 1]),
                    "num_detections": tf.tile([2], [count]),
                }

        protocol = dataclasses.replace(TINY, test_scales=(40, 48, 75))
        model = mock.Mock(get_weights=lambda: [])
        with mock.patch.object(MaskRCNNTask, "build_model", return_value=Whole()):
            frozen, test = open_model(self.model), self.splits[1]
            found = detector.detect(model, frozen, test, protocol, self.folder())
        self.assertLen(found, 5)
        for rows in found:  # of three scales, one of each is left
            height, width = 40, 56
            expected = [[0, 0, height / 2, width / 2, 0.9, 1], [0, 0, height, width, 0.5, 0]]
            self.assertAllClose(rows, expected, atol=0.3)  # sides are whole pixels

    def test_of_detections_that_overlap_the_best_of_a_class_stays(self):
        rows = np.float32(
            [
                [0, 0, 10, 10, 0.6, 0],
                [0, 0, 10, 9, 0.8, 0],
                [0, 0, 10, 10, 0.5, 1],
                [0, 0, 10, 4, 0.7, 0],
            ]
        )
        self.assertAllEqual(detector.merge(rows, 0.5, 10), rows[[1, 3, 2]])
        self.assertAllEqual(detector.merge(rows, 0.5, 2), rows[[1, 3]])
        self.assertEqual(detector.merge(rows[:0], 0.5, 2).shape, (0, 6))

    @pytest.mark.extended
    def test_the_command_trains_and_evaluates(self):
        self.check_training(self.folder())

    @pytest.mark.extended
    def test_a_finished_one_is_measured_again_and_another_is_refused(self):
        workdir = self.folder()
        flags, result = self.check_training(workdir)
        code, out, err = self.call(*flags)
        self.assertEqual(code, 0, err)
        self.assertEqual(json.loads(out.splitlines()[-1])["map"], result["map"])
        self.assertIn("2/2 steps (100%), done", err)
        code, out, err = self.call(*flags, "--params_override=learning_rate=0.02")
        self.assertEqual(code, 2, err)
        self.assertIn("use another folder", err)

    def check_training(self, workdir):
        """(flags, result) of a command that has ended well."""
        flags = [f"--params_override=workdir={workdir},tune=all", "--norandom_init"]
        code, out, err = self.call(*flags)
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"\nmodel +\d+\.\d\d")
        self.assertRegex(out, r"\npaper: DeeperCluster +67\.80")
        self.assertTrue(out.startswith("voc07_detection all"), out)
        result = json.loads(out.splitlines()[-1])
        self.assertEqual(result["classes"], ["across", "down"])
        self.assertContainsSubset(["map", "map_11_points", "coco_map"], result)
        checkpoints = os.path.join(workdir, "model", "worker-0", "checkpoints")
        self.assertTrue(tf.train.latest_checkpoint(checkpoints).endswith("ckpt-2"))
        return flags, result

    @pytest.mark.extended
    def test_two_workers_find_the_same(self):
        folder = self.folder()
        protocol = dataclasses.replace(TINY, iterations=1)
        arguments = self.model, self.kit, protocol, folder
        both = workers.on_cluster(2, measured, *arguments, timeout_s=600)
        self.assertEqual(*both)
        # Once more they find a finished checkpoint, from which both resume.
        for again, shared, alone in workers.on_cluster(2, detected, *arguments, timeout_s=600):
            self.assertEqual(again, both[0])
            self.assertGreater(sum(map(len, shared)), 0)
            for rows, expected in zip(shared, alone, strict=True):
                self.assertAllClose(rows, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.extended
    def test_a_loss_that_explodes_is_reported(self):
        protocol = dataclasses.replace(TINY, learning_rate=1e20, iterations=4, drops=(3,))
        with self.assertRaisesRegex(DataError, "lower learning_rate"):
            detector.train(open_model(self.model), self.splits[0], protocol, self.folder())

    def test_settings_that_cannot_work_are_refused(self):
        for wrong in (
            {"tune": "fc7"},
            {"iterations": 0},
            {"train_scales": (700, 400)},
            {"train_scales": (400,)},
            {"test_scales": ()},
            {"drops": (2, 1)},
        ):
            with self.assertRaisesRegex(ConfigError, next(iter(wrong))):
                dataclasses.replace(TINY, **wrong)

    def test_the_papers_settings_are_in_the_presets(self):
        for tune, rate in (("fc68", 0.01), ("all", 0.002)):
            task, p = task_protocol.of_settings(
                None, [str(CONFIGS / f"voc07_detection_{tune}.yaml")]
            )
            self.assertIs(task, voc07_detection)
            self.assertEqual((p.tune, p.learning_rate), (tune, rate))
            self.assertEqual((p.iterations, p.drops, p.drop_factor), (150_000, (50_000,), 0.1))
            self.assertEqual(
                (p.train_scales, min(p.test_scales), max(p.test_scales)), ((400, 700), 400, 600)
            )
            self.assertEqual(p.weight_decay, 1e-4)


if __name__ == "__main__":
    tf.test.main()
