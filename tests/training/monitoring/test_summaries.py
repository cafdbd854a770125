"""What TensorBoard shows of a run, read with its own reader; a resumed run has no point twice."""

import glob
import io
import os
import pathlib
import re
import shutil
import tempfile
import types
from unittest import mock

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers
from google.protobuf import text_format
from PIL import Image
from tensorboard_events import opened, scalars

from dc_tf.clustering.assignments import Assignments
from dc_tf.clustering.cluster_model import load_clustering
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.schema import OURS
from dc_tf.experiment import load
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring import cluster_pictures
from dc_tf.training.monitoring.metrics import read
from dc_tf.training.monitoring.summaries import SETTINGS, Summaries, hyperparameters


def documented(heading):
    """Names in the first columns of the tables under a heading of docs/metrics.md, by table."""
    root = pathlib.Path(__file__).resolve().parents[3]
    text = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    tables = [table.partition("\n\n")[0] for table in section.split("| field | meaning |")[1:]]
    firsts = [[line.split("|")[1] for line in t.splitlines() if "|" in line] for t in tables]
    return [[name for cell in cells for name in re.findall(r"`(\w+)`", cell)] for cells in firsts]


def files(folder):
    return sorted(glob.glob(os.path.join(folder, "*tfevents*")))


def pictures_of(reader, side=None):
    """(n, side, side, 3) float32 of all rows; without `side` as large as they are."""
    found = []
    for example in reader.examples(np.arange(reader.dataset.rows)):
        with Image.open(io.BytesIO(example["encoded"])) as image:
            image = image.convert("RGB")
            found.append(np.asarray(image.resize((side, side)) if side else image, np.float32))
    return np.stack(found)


def closest(picture, known):
    """The row whose picture is most like one that was compressed; it has to be much more so."""
    distance = np.abs(known - picture).mean((1, 2, 3))
    first, second = np.argsort(distance)[:2]
    assert 2 * distance[first] < distance[second], (distance[first], distance[second])
    return first


def in_tile(sheet, line, column, side):
    """The picture, `side` pixels, in the middle of a tile of a contact sheet, of 128 x 170."""
    top, left = 170 * line + 64 - side // 2, 128 * column + 64 - side // 2
    return sheet[top : top + side, left : left + side]


class SummariesTest(tf.test.TestCase):
    def folder(self):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "tensorboard")

    def write(self, folder, from_step, steps, factor=1.0):
        summaries = Summaries(folder, from_step)
        for step in steps:
            summaries.scalars(step, {"loss": factor * step, "absent": None})
        summaries.close()

    def test_a_resumed_run_has_each_step_once(self):
        folder = self.folder()
        self.write(folder, 0, range(1, 6))
        self.write(folder, 3, range(4, 8), factor=10.0)
        expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 70.0)]
        self.assertEqual(scalars(opened(folder)), {"loss": expected})
        self.write(folder, 3, [4])  # from the same checkpoint again: the second file is obsolete
        self.assertEqual(scalars(opened(folder))["loss"], [*expected[:3], (4, 4.0)])
        self.assertLen(files(folder), 2)

    def test_a_record_that_was_cut_short_is_removed(self):
        folder = self.folder()
        self.write(folder, 0, range(1, 6))
        (path,) = files(folder)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) - 7)
        self.write(folder, 9, [10])
        steps = [step for step, _ in scalars(opened(folder))["loss"]]
        self.assertEqual(steps, [1, 2, 3, 4, 10])

    def test_other_files_and_damaged_ones_stay(self):
        folder = self.folder()
        self.write(folder, 0, [1])
        before = open(files(folder)[0], "rb").read()
        broken = os.path.join(folder, "events.out.tfevents.0.broken")
        with open(broken, "wb") as file:
            file.write(b"x" * 50)
        open(os.path.join(folder, "notes.txt"), "w").close()
        Summaries(folder, 5)
        self.assertEqual(open(files(folder)[1], "rb").read(), before)
        self.assertTrue(os.path.exists(broken))
        self.assertTrue(os.path.exists(os.path.join(folder, "notes.txt")))

    def test_settings_are_a_text_and_hyper_parameters_once(self):
        from tensorboard.plugins.hparams import plugin_data_pb2

        experiment = load(params_override=[repr(runs.settings("DATA"))])
        folder = self.folder()
        for from_step in (0, 7):
            summaries = Summaries(folder, from_step)
            summaries.describe(experiment)
            summaries.close()
        self.assertLen(files(folder), 1)
        events = opened(folder)
        (tensor,) = events.Tensors(SETTINGS)
        text = tf.make_ndarray(tensor.tensor_proto).item().decode()
        self.assertIn("\n      name: deepercluster\n", text.replace("- name", "  name"))
        self.assertIn("text", events.SummaryMetadata(SETTINGS).plugin_data.plugin_name)
        (content,) = events.PluginTagToContent("hparams").values()
        data = plugin_data_pb2.HParamsPluginData.FromString(content)
        found = data.session_start_info.hparams
        self.assertEqual(found["stages[1].optimizer.learning_rate"].number_value, 0.01)
        self.assertEqual(found["data.path"].string_value, "DATA")
        self.assertTrue(found["model.sobel"].bool_value)
        self.assertEqual(set(found), set(hyperparameters(experiment)))

    def test_every_setting_is_a_hyper_parameter(self):
        experiment = load(params_override=[repr(runs.settings("DATA"))])
        found = hyperparameters(experiment)
        self.assertEqual(found["stages[0].name"], "rotnet")
        self.assertEqual(found["model.width"], 1 / 16)
        top = {name.partition(".")[0].partition("[")[0] for name in found}
        self.assertEqual(top, set(experiment.as_dict()))
        self.assertTrue(all(isinstance(v, bool | int | float | str) for v in found.values()))


class PicturesTest(tf.test.TestCase):
    def test_the_row_of_a_centroid_is_the_nearest_of_its_own(self):
        random = np.random.default_rng(0)
        flat = random.integers(0, 30, 500)
        nearness = random.random((500, 2)).astype(np.float32)
        labels = cluster_pictures.largest(np.bincount(flat, minlength=40), 7)
        counts = np.bincount(flat)
        self.assertAllEqual(np.sort(counts[labels]), np.sort(counts)[-7:])
        self.assertAllEqual(labels, np.sort(labels))
        rows = cluster_pictures.nearest_rows(labels, flat, nearness)
        for label, row in zip(labels, rows, strict=True):
            members = np.flatnonzero(flat == label)
            self.assertEqual(row, members[nearness[members, 0].argmin()])
        first = cluster_pictures.nearest_rows(labels, flat, None)
        self.assertAllEqual(first, [np.flatnonzero(flat == label)[0] for label in labels])
        self.assertLen(cluster_pictures.largest(np.array([0, 3, 0, 1]), 9), 2)

    def small(self):
        """A reader of 20 images and their assignments: sizes of the clusters 5, 0, 9, 2, 4, 0."""
        reader = RowReader(Dataset.open(runs.make_data(tempfile.mkdtemp(), images=20)))
        flat = np.repeat([0, 2, 3, 4], [5, 9, 2, 4])
        flat = np.random.default_rng(1).permutation(flat).astype(np.int32)
        return reader, Assignments(flat // 3, flat % 3, clusters=2, sub_clusters=3)

    def test_a_sheet_has_the_images_of_its_clusters_in_their_tiles(self):
        reader, assignments = self.small()
        flat, known = assignments.flat(), pictures_of(reader)
        with mock.patch.object(cluster_pictures, "SHEET_CLUSTERS", 3):
            sheet = np.asarray(cluster_pictures.contact_sheet(assignments, reader), np.float32)
        self.assertEqual(sheet.shape, (3 * 170, 8 * 128, 3))
        members = {label: np.flatnonzero(flat == label) for label in (2, 0, 3)}
        shown = [members[2][[0, 1, 2, 3, 4, 5, 6, 8]], members[0], members[3]]  # not cluster 4
        for line, rows in enumerate(shown):
            for column, row in enumerate(rows):
                tile = in_tile(sheet, line, column, known.shape[1])
                self.assertAllEqual(tile, known[row], f"line {line}, column {column}")
            empty = sheet[170 * line : 170 * (line + 1), 128 * len(rows) :]
            self.assertTrue((empty == 255).all(), f"line {line}")

    def test_of_many_centroids_the_projector_keeps_the_largest(self):
        reader, assignments = self.small()
        flat, random = assignments.flat(), np.random.default_rng(2)
        centroids = random.standard_normal((2, 3, 7)).astype(np.float32)
        nearness = random.random((20, 2)).astype(np.float32)
        model = types.SimpleNamespace(
            counts=np.bincount(flat, minlength=6).reshape(2, 3),
            sub_centroids=tuple(centroids),
            nearness=lambda: nearness,
        )
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        with mock.patch.object(cluster_pictures, "MOST_CENTROIDS", 3):
            count = cluster_pictures.write_projector(folder, "round", model, assignments, reader)
        self.assertEqual(count, 3)
        self.check_projector(folder, centroids.reshape(6, 7), flat, nearness, reader)

    def check_projector(self, folder, centroids, flat, nearness, reader):
        """Of the clusters 0, 2 and 4: centroids, lines and sprites, in this order."""
        folder = os.path.join(folder, cluster_pictures.FOLDER, "round")
        found = np.fromfile(os.path.join(folder, "centroids.bytes"), np.float32)
        self.assertAllEqual(found.reshape(3, 7), centroids[[0, 2, 4]])
        rows = []
        for label in (0, 2, 4):
            members = np.flatnonzero(flat == label)
            rows.append(members[nearness[members, 0].argmin()])
        sources = [example["source"] for example in reader.examples(rows)]
        with open(os.path.join(folder, "centroids.tsv")) as file:
            lines = [line.rstrip("\n").split("\t") for line in file][1:]
        expected = zip(("0/0", "0/2", "1/1"), "594", map(str, rows), sources, strict=True)
        self.assertEqual(lines, [list(line) for line in expected])
        side, known = cluster_pictures.SPRITE, pictures_of(reader, cluster_pictures.SPRITE)
        with Image.open(os.path.join(folder, "sprites.jpg")) as image:
            sprites = np.asarray(image, np.float32).reshape(2, side, 2, side, 3)
        for number, row in enumerate(rows):
            self.assertEqual(closest(sprites[number // 2, :, number % 2], known), row)
        self.assertGreater(sprites[1, :, 1].min(), 240)  # no fourth one

    def test_corrupt_records_have_an_empty_place(self):
        pictures = [None, {"encoded": b"no image", "source": "x", "label": None}]
        sheet = cluster_pictures._sprites(pictures)
        self.assertEqual(sheet.size, (2 * cluster_pictures.SPRITE, cluster_pictures.SPRITE))
        self.assertAllEqual(np.unique(np.asarray(sheet)), [255])
        read = lambda rows, corrupt: [corrupt for _ in rows]  # noqa: E731
        reader = types.SimpleNamespace(read=read, dataset=types.SimpleNamespace(features=OURS))
        found = list(cluster_pictures.examples(reader, np.arange(300)))
        self.assertEqual(found, [None] * 300)


@pytest.mark.slow
class RunTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings, path = runs.undisturbed(1)
        cls.run_dir = RunDir(path)
        cls.events = opened(cls.run_dir.summaries)
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)

    def test_there_is_one_file_with_the_numbers_of_the_metrics(self):
        self.assertLen(files(self.run_dir.summaries), 1)
        (train,), (sizes, others, _) = (
            documented("### event: train"),
            documented("### event: clustering"),
        )
        numbers = {name: ("train", name) for name in train if name not in ("stage", "epoch")}
        levels = [f"{level}/{name}" for level in ("clusters", "sub_clusters") for name in sizes]
        agreement = [name for name in others if name.startswith("nmi_")]
        numbers |= {f"clustering/{name}": ("clustering", name) for name in levels + agreement}
        self.assertLen(agreement, 2)
        lines, expected = read(self.run_dir.metrics), {}
        for tag, (event, name) in numbers.items():
            found = [
                (line["step"], np.float32(line[name]))
                for line in lines
                if line["event"] == event and line.get(name) is not None
            ]
            expected |= {tag: found} if found else {}
        self.assertEqual(numbers.keys() - expected.keys(), {"loss_scale", "skipped_steps"})
        self.assertEqual(scalars(self.events), expected)

    def test_histograms_count_all_clusters(self):
        for level, count in (("clusters", 2), ("sub_clusters", 8)):
            events = self.events.Tensors(f"clustering/sizes/{level}")
            self.assertEqual([event.step for event in events], [8, 16])
            for event in events:
                buckets = tf.make_ndarray(event.tensor_proto)
                self.assertEqual(buckets[:, 2].sum(), count)
                self.assertBetween(128 / count, buckets[0, 0], buckets[-1, 1])

    def test_the_sheet_is_a_line_of_images_for_each_of_some_clusters(self):
        events = self.events.Tensors("clustering/images")
        self.assertEqual([event.step for event in events], [8, 16])
        known = pictures_of(RowReader(Dataset.open(self.settings["data"]["path"])))
        for number, event in enumerate(events):
            width, height, encoded = tf.make_ndarray(event.tensor_proto)
            with Image.open(io.BytesIO(encoded)) as image:
                self.assertEqual(image.size, (int(width), int(height)))
                pixels = np.asarray(image.convert("RGB"), np.float32)
            flat = Assignments.open(self.run_dir.clustering(1, number)).flat()
            counts = np.bincount(flat)
            labels = [one for one in np.argsort(-counts, kind="stable") if counts[one]]
            self.assertLen(labels, len(pixels) // 170)  # eight at most, so that all are shown
            for line, label in enumerate(labels):
                members = np.flatnonzero(flat == label)
                for column, row in ((0, members[0]), (min(len(members), 8) - 1, members[-1])):
                    tile = in_tile(pixels, line, column, known.shape[1])
                    self.assertEqual(closest(tile, known), row, f"line {line}, column {column}")
        self.assertEqual(
            self.events.SummaryMetadata("clustering/images").plugin_data.plugin_name, "images"
        )

    def test_the_projector_has_the_centroids_with_the_images_nearest_to_them(self):
        from tensorboard.plugins.projector import projector_plugin
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

        folder = self.run_dir.summaries
        with open(os.path.join(folder, cluster_pictures.CONFIG)) as file:
            (info,) = text_format.Parse(file.read(), ProjectorConfig()).embeddings
        tensor = projector_plugin._read_tensor_binary_file(
            os.path.join(folder, info.tensor_path), list(info.tensor_shape)
        )
        model = load_clustering(self.run_dir)
        used = np.flatnonzero(model.counts.ravel())
        self.assertAllEqual(tensor, np.concatenate(model.sub_centroids)[used])
        with open(os.path.join(folder, info.metadata_path)) as file:
            head, *lines = [line.rstrip("\n").split("\t") for line in file]
        self.assertEqual(head, ["cluster", "images", "row", "source"])
        assignments = Assignments.open(self.run_dir.clustering(1, 1))
        reader = RowReader(Dataset.open(self.settings["data"]["path"]))
        examples = reader.examples(range(128))
        distance = model.nearness()[:, 0]
        for label, (cluster, images, row, source) in zip(used, lines, strict=True):
            self.assertEqual(cluster, f"{label // 4}/{label % 4}")
            members = np.flatnonzero(assignments.flat() == label)
            self.assertEqual(int(images), len(members))
            self.assertEqual(int(row), members[distance[members].argmin()])
            self.assertEqual(source, examples[int(row)]["source"])
        side = info.sprite.single_image_dim[0]
        with Image.open(os.path.join(folder, info.sprite.image_path)) as image:
            columns = int(np.ceil(np.sqrt(len(used))))
            self.assertEqual(image.size[0], columns * side)
            pixels = np.asarray(image.convert("RGB"), np.float32)
        known = pictures_of(reader, side)
        for number, (_, _, shown, _) in enumerate(lines):
            row, column = divmod(number, columns)
            sprite = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            self.assertEqual(closest(sprite, known), int(shown))
        self.assertLen(os.listdir(os.path.join(folder, cluster_pictures.FOLDER)), 1)

    @pytest.mark.extended
    def test_a_run_that_was_killed_twice_has_each_point_once(self):
        workdir = os.path.join(self.folder, "killed")
        for stop_at in (("train", 11), ("train", 17), None):
            workers.on_cluster(1, runs.train, self.settings, workdir, stop_at)
        events, whole = opened(RunDir(workdir).summaries), scalars(self.events)
        found = scalars(events)
        self.assertEqual(found.keys(), whole.keys())
        for tag, points in found.items():
            steps = [step for step, _ in points]
            self.assertEqual(steps, [step for step, _ in whole[tag]], tag)
        for tag in ("clustering/images", "clustering/sizes/clusters"):
            self.assertEqual([event.step for event in events.Tensors(tag)], [8, 16])
        self.assertLen(events.Tensors(SETTINGS), 1)

    @pytest.mark.extended
    def test_of_two_workers_the_chief_alone_writes(self):
        settings, workdir = runs.undisturbed(2)
        folder = RunDir(workdir).summaries
        self.assertLen(files(folder), 1)
        found = scalars(opened(folder))
        self.assertEqual(found.keys(), scalars(self.events).keys())


if __name__ == "__main__":
    tf.test.main()
