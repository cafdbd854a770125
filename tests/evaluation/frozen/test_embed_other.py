"""Features of networks of other programs, and of folders of images, by the commands."""

import collections
import contextlib
import csv
import glob
import io
import json
import os
import re
import shutil
import tempfile
from unittest import mock

import browsing
import jobs
import numpy as np
import other_networks
import pictures
import pytest
import runs
import tensorflow as tf
from PIL import Image

import dc_tf
from dc_tf.commands.main import main
from dc_tf.curation.features.network import embed_images, network_of
from dc_tf.curation.features.open import open_features
from dc_tf.data.input.augment import center_crop
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.row_sources import sources_of
from dc_tf.data.storage.view import write_view
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, Preempted
from dc_tf.evaluation.frozen.features import Extractor
from dc_tf.report.browser.site import Source, open_site

ROWS, SIDE = 48, other_networks.SIDE


class OtherTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.data = runs.make_data(cls.root, images=ROWS)
        cls.model = os.path.join(cls.root, "theirs")
        signatures = {"serving_default": ("mean", "map")}
        other_networks.saved_model(cls.model, signatures=signatures)
        cls.flags = f"--model={cls.model}", f"--data={cls.data}", "--preprocessing=0-1"
        cls.features = os.path.join(cls.root, "features")
        cls.about = call("embed", *cls.flags, "--layer=mean", f"--output={cls.features}")

    def folder(self):
        return os.path.join(tempfile.mkdtemp(dir=self.root), "features")

    def crops(self, short_side):
        reader = RowReader(Dataset.open(self.data))
        (batch,) = evaluation_batches(reader, np.arange(ROWS), ROWS, SIDE, short_side)
        return batch["image"].numpy()


class EmbedTest(OtherTest):
    def test_features_are_the_networks_output_for_centre_crops(self):
        found = np.concatenate([np.load(p) for p in files(self.features, "mean")])
        self.assertAllClose(found, 2 * self.crops(18).mean((1, 2)), rtol=1e-5)
        self.assertEqual(self.about["network"]["preprocessing"]["short_side"], 18)
        self.assertEqual(self.about["network"]["signature"], "serving_default")

    def test_whole_images_are_scaled_to_a_square(self):
        flags = *self.flags[:2], "--preprocessing=0-1,crop=0", "--layer=map"
        folder = self.folder()
        about = call("embed", *flags, "--cells=16", f"--output={folder}")
        (found,) = (np.load(p) for p in files(folder, "map"))
        self.assertEqual(about["dims"], {"map": SIDE * SIDE * 3})
        reader = RowReader(Dataset.open(self.data))
        encoded = [example["encoded"] for example in reader.examples(np.arange(ROWS))]
        images = [tf.io.decode_image(one, 3, expand_animations=False) for one in encoded]
        squares = [tf.image.resize(image, [SIDE, SIDE], antialias=True) / 255 for image in images]
        expected = 2 * np.stack(squares).reshape(ROWS, -1)
        self.assertAllClose(found, expected, atol=2e-3)

    def test_scaling_is_pillows_bicubic_where_it_is_stated(self):
        encoded = RowReader(Dataset.open(self.data)).examples([3])[0]["encoded"]
        with Image.open(io.BytesIO(encoded)) as image:
            for kernel, name in ((Image.BICUBIC, "bicubic"), (Image.BILINEAR, "bilinear")):
                expected = np.asarray(image.resize((20, 20), kernel), np.float32) / 255
                found = center_crop(encoded, 20, 0, name).numpy()
                # Pillow clips and rounds in between, and its decoder of JPEG is another one.
                self.assertLess(np.abs(found - expected).mean(), 1 / 255, name)
                self.assertAllClose(found, expected, atol=6 / 255, msg=name)
                self.assertAllInRange(found, 0, 1)
        folder, flags = (
            self.folder(),
            (*self.flags[:2], "--preprocessing=0-1,interpolation=bicubic"),
        )
        call("embed", *flags, "--layer=mean", f"--output={folder}")
        (values,) = (np.load(path) for path in files(folder, "mean"))
        expected = 2 * tf.reduce_mean(center_crop(encoded, SIDE, 18, "bicubic"), [0, 1])
        self.assertAllClose(values[3], expected, rtol=1e-5)
        features = open_features(features=folder, data=self.data)
        again = embed_images(network_of(features), features, [encoded])
        self.assertAllClose(again[0], expected, rtol=1e-5)

    @pytest.mark.slow
    def test_an_interrupted_call_resumes_without_its_layer(self):
        folder = self.folder()
        flags = *self.flags, "--batch_size=8", "--rows_per_file=16", f"--output={folder}"
        original, calls = Extractor.__call__, []

        def stop_at_the_third(extractor, images):
            calls.append(1)
            if len(calls) == 3:
                raise Preempted("asked to stop")
            return original(extractor, images)

        self.addCleanup(stop_request.reset)
        with mock.patch.object(Extractor, "__call__", stop_at_the_third):
            code, _ = run("embed", *flags, "--layer=mean")
            self.assertEqual(code, 42)
            call("embed", *flags)
        found = np.concatenate([np.load(path) for path in files(folder, "mean")])
        self.assertAllClose(found, 2 * self.crops(18).mean((1, 2)), rtol=1e-5)
        code, text = run("embed", *self.flags[:2], "--preprocessing=-1-1", *flags[3:])
        self.assertEqual(code, 2)
        self.assertIn("other features (different: network)", text)

    def test_what_cannot_work_is_refused_before_work_starts(self):
        output = f"--output={self.folder()}"
        for flags, message in (
            ((*self.flags,), "has 2 outputs; choose with --layer, of map, mean"),
            ((*self.flags, "--layer=fc7"), "has no output fc7; it has map, mean"),
            ((*self.flags[:2], "--layer=mean"), "does not state how its images are prepared"),
            ((*self.flags, "--layer=mean", "--random_init"), "--random_init is of networks of dc"),
            ((*self.flags, "--layer=mean", "--stage=x"), "--stage is of networks of dc_tf"),
            (("--model=x.onnx", *self.flags[1:]), "the model 'x.onnx' does not exist"),
            ((self.flags[0],), "give --data=DATA or --images=FOLDER."),
            ((*self.flags, "--images=x"), "not both"),
        ):
            code, text = run("embed", *flags, output)
            self.assertEqual(code, 2, text)
            self.assertIn(message, text)
            self.assertFalse(os.path.exists(output.partition("=")[2]))

    def test_a_network_of_ours_states_its_own_preprocessing(self):
        ours = tempfile.mkdtemp(dir=self.root)
        pictures.write(ours, "experiment.yaml", "")
        with self.assertRaisesRegex(ConfigError, "preprocessing is of networks of other programs"):
            dc_tf.embed(ours, self.data, preprocessing="imagenet")

    def test_an_array_of_the_api_is_what_the_command_writes(self):
        array = dc_tf.embed(self.model, self.data, "mean", preprocessing="0-1")
        self.assertAllEqual(
            array, np.concatenate([np.load(p) for p in files(self.features, "mean")])
        )

    def test_further_images_are_embedded_by_the_recorded_network(self):
        features = open_features(features=self.features, data=self.data)
        network = network_of(features)
        encoded = [one["encoded"] for one in RowReader(features.dataset).examples([0, 5])]
        self.assertAllClose(embed_images(network, features, encoded), features.take([0, 5]))

    def test_a_folder_of_images_is_converted_beside_the_output_and_kept(self):
        folder, images = self.folder(), tempfile.mkdtemp(dir=self.root)
        for number in range(5):
            pictures.write(images, f"{number}.png", pictures.encoded(number))
        flags = self.flags[0], self.flags[2], "--layer=mean", f"--images={images}"
        about = call("embed", *flags, f"--output={folder}")
        self.assertEqual((about["rows"], about["data_path"]), (5, f"{folder}.data"))
        self.assertEqual(Dataset.open(f"{folder}.data").rows, 5)
        again = call("embed", *flags, f"--output={folder}")
        self.assertEqual(again, about)

    @pytest.mark.slow
    def test_two_workers_convert_embed_and_measure_as_one(self):
        images, logs = tempfile.mkdtemp(dir=self.root), os.path.join(self.root, "logs")
        for number in range(24):
            pictures.write(images, f"{number % 3}/{number}.png", pictures.encoded(number))
        flags = self.flags[0], self.flags[2], "--layer=mean", "--batch_size=8"
        alone, folder = self.folder(), self.folder()
        call("embed", *flags, f"--images={images}", f"--output={alone}")
        command = ["embed", *flags, f"--images={images}", f"--output={folder}"]
        with jobs.Job(2, command, logs) as job:
            self.assertEqual(job.wait(240), [0, 0], job.log(0))
        for path in files(alone, "mean"):
            same = os.path.join(folder, os.path.basename(path))
            self.assertAllEqual(np.load(same), np.load(path))
        for task in ("knn", "retrieval"):
            result = os.path.join(self.root, f"{task}.json")
            flags = f"--task={task}", f"--features={self.features}", "--noestimate"
            flags += f"--train={self.data}", f"--test={self.data}"
            with jobs.Job(2, ["evaluate", *flags, f"--output={result}"], logs) as job:
                self.assertEqual(job.wait(240), [0, 0], job.log(0))
            with open(result) as file:
                found = json.load(file)
            expected = call("evaluate", *flags)
            name = "map" if task == "retrieval" else "top1"
            self.assertAllClose(found[name], expected[name], atol=1e-6)


@pytest.mark.slow
class FurtherTest(OtherTest):
    """What is done with the features of other networks is what is done with ours."""

    def view(self, rows):
        path = os.path.join(tempfile.mkdtemp(dir=self.root), "view")
        write_view(Dataset.open(self.data), rows, path)
        return path

    def check_report(self, page):
        """The page has every cluster with its number of images, and names of files."""
        with open(page, encoding="utf-8") as file:
            text = file.read()
        with open(os.path.join(self.root, "table.csv"), newline="") as file:
            lines = list(csv.DictReader(file))
        for cluster, count in collections.Counter(line["cluster"] for line in lines).items():
            self.assertIn(f'Cluster {cluster}</span> <span class="unit">{count} image', text)
        shown = [line["source"] for line in lines if line["source"] in text]
        self.assertGreater(len(shown), 3)

    def test_clusters_copies_and_subsets(self):
        source = f"--features={self.features}", f"--data={self.data}"
        clusters = os.path.join(self.root, "clusters")
        call("kmeans", f"--input={self.features}/mean-*.npy", "--k=4", f"--output={clusters}")
        pair = f"--clusters={clusters}", f"--data={self.data}"
        table = call("clusters", *pair, f"--output={self.root}/table.csv")
        self.assertEqual(table["rows"], ROWS)
        page = os.path.join(self.root, "report.html")
        call("report", *pair, f"--output={page}")
        self.check_report(page)
        few = self.curated(self.features)
        x = np.concatenate([np.load(path) for path in files(self.features, "mean")])
        self.assertLen(few, 10)
        self.assertAllEqual(self.curated(x), few)
        self.assertNotEqual(self.curated(x[::-1]).tolist(), few.tolist())
        nmi = call("evaluate", "--task=nmi", f"--model={clusters}", f"--train={self.data}")
        self.assertEqual(nmi["rows"], ROWS)
        flags = source[0], f"--train={self.data}", "--params_override=k=4"
        same = call("evaluate", "--task=nmi", *flags)
        self.assertAllClose(same["clusterings"][0]["nmi"], nmi["clusterings"][0]["nmi"])
        view = self.view(np.arange(8, ROWS))
        part = call("evaluate", "--task=nmi", source[0], f"--train={view}")
        self.assertEqual(part["rows"], ROWS - 8)
        assigned = os.path.join(self.root, "assigned.csv")
        call("assign", *pair, f"--output={assigned}")  # the network of the features is found
        with open(assigned, newline="") as file:
            found = [int(line["cluster"]) for line in csv.DictReader(file)]
        self.assertAllEqual(found, np.load(os.path.join(clusters, "assignments.npy")))
        self.browsed(clusters)

    def curated(self, features):
        """The rows that are chosen by features, a folder of `embed` or a matrix."""
        if not isinstance(features, str):
            path = os.path.join(tempfile.mkdtemp(dir=self.root), "given.npy")
            np.save(path, features)
            features = path
        few = self.folder()
        flags = f"--features={features}", f"--data={self.data}", "--target=10", "--levels=4"
        call("curate", *flags, f"--output={few}")
        return Dataset.open(few).row_list.row_ids

    def test_a_near_copy_is_found_by_the_features(self):
        images, folder = tempfile.mkdtemp(dir=self.root), self.folder()
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((40, 40), Image.BICUBIC)
            picture.save(os.path.join(images, f"{number:02}.png"))
            if number == 5:
                picture.resize((32, 32)).save(os.path.join(images, "copy.jpg"), quality=90)
        flags = self.flags[0], self.flags[2], "--layer=map", "--cells=16", f"--images={images}"
        call("embed", *flags, f"--output={folder}")
        copies, data = self.folder(), f"{folder}.data"
        flags = f"--features={folder}", f"--data={data}", "--whiten=0", "--threshold=0.99"
        found = call("duplicates", *flags, "--format=csv", f"--output={copies}")
        self.assertEqual((found["rows"], found["groups"], found["would_go"]), (13, 1, 1))
        with open(os.path.join(copies, "duplicates.csv"), newline="") as file:
            group = [(line["source"], line["kind"]) for line in csv.DictReader(file)]
        self.assertEqual(group, [("05.png", ""), ("copy.jpg", "near")])
        names = pictures.sources(data)
        stays = [{"row": row, "source": n} for row, n in enumerate(names) if n != "copy.jpg"]
        self.assertEqual(lines_of(os.path.join(copies, "keep.jsonl")), stays)
        alone = self.folder()  # without the data set: no sizes, and names from beside the features
        call("duplicates", flags[0], *flags[2:], f"--output={alone}")
        rows = np.load(os.path.join(alone, "keep.npy")).tolist()
        self.assertLen(rows, 12)
        stays = [{"row": row, "source": names[row]} for row in rows]
        self.assertEqual(lines_of(os.path.join(alone, "keep.jsonl")), stays)

    def browsed(self, clusters):
        """An image of the collection and one from outside find the row by these features."""
        source = Source(clusters=clusters, data=self.data, features=self.features, table=False)
        site = open_site(source, os.path.join(tempfile.mkdtemp(dir=self.root), "browser"))
        client = browsing.client(site)
        (example,) = RowReader(site.dataset).examples([7])
        answer = client.post("/example", content=example["encoded"], headers=browsing.ORIGIN)
        page = client.get(answer.json()["location"]).text
        self.assertEqual(re.search(r'href="/image/(\d+)"', page)[1], "7")
        x = np.concatenate([np.load(path) for path in files(self.features, "mean")])
        self.assertAllClose(site.examples.features.read(0, ROWS), x)

    def test_images_are_found_and_assigned_by_the_network_of_the_features(self):
        example = RowReader(Dataset.open(self.data)).examples([7])[0]
        image = pictures.write(tempfile.mkdtemp(dir=self.root), "q.jpg", example["encoded"])
        source = f"--features={self.features}", f"--data={self.data}"
        found = call("search", *source, f"--query={image}", "--k=3")
        self.assertEqual(found["neighbours"][0]["row"], 7)
        without = call("search", source[0], f"--query={image}", "--k=3")
        self.assertEqual(without["neighbours"], found["neighbours"])  # with the names of embed

    def test_given_features_measure_as_the_network_does(self):
        train, test = self.view(np.arange(32)), self.view(np.arange(32, ROWS))
        data = f"--train={train}", f"--test={test}", "--noestimate"
        for task in ("knn", "linear_probe", "low_shot"):
            settings = {"linear_probe": "epochs=2", "low_shot": "shots=[1],draws=2"}.get(task)
            flags = f"--task={task}", *data
            flags += (f"--params_override={settings}",) if settings else ()
            given = call("evaluate", *flags, f"--features={self.features}")
            flags += (f"--model={self.model}", "--preprocessing=0-1", "--layer=mean")
            flags += ("--protocol=small",) if task == "linear_probe" else ()
            own = call("evaluate", *flags)
            self.assertEqual(list(given["layers"]), ["mean"])
            for name, value in own["layers"]["mean"].items():
                self.assertAllClose(given["layers"]["mean"][name], value, atol=1e-4, msg=name)
            self.assertIsNone(own["random_init"])
        self.assertFalse(os.path.exists(os.path.join(self.model, "evaluations.json")))

    def test_neighbours_by_given_features_are_the_nearest_of_them(self):
        train, test = self.view(np.arange(32)), self.view(np.arange(32, ROWS))
        table, given = os.path.join(self.root, "knn.csv"), os.path.join(self.root, "given.npy")
        x = np.random.default_rng(1).standard_normal((ROWS, 8)).astype(np.float32)
        np.save(given, x)
        flags = "--task=knn", f"--train={train}", f"--test={test}", f"--features={given}"
        call("evaluate", *flags, "--noestimate", f"--neighbours={table}")
        with open(table, newline="") as file:
            lines = list(csv.DictReader(file))
        x -= x[:32].mean(0)  # as the task does
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        cosines, sources = x[32:] @ x[:32].T, sources_of(Dataset.open(self.data), range(ROWS))
        first = [line for line in lines if line["rank"] == "1"]
        self.assertLen(first, ROWS - 32)
        for number, line in enumerate(first):
            self.assertEqual(line["test_source"], sources[32 + number])
            self.assertEqual(line["source"], sources[int(line["row"])])
            self.assertEqual(int(line["row"]), cosines[number].argmax())

    def test_retrieval_ranks_images_by_their_features(self):
        labels = Dataset.open(self.data).labels()
        folder = tempfile.mkdtemp(dir=self.root)
        exact = np.eye(labels.max() + 1, dtype=np.float32)[labels]
        np.save(os.path.join(folder, "exact.npy"), exact)
        flags = "--task=retrieval", f"--test={self.data}"
        found = call("evaluate", *flags, f"--features={folder}/exact.npy")
        self.assertEqual(found["map"], 1.0)
        self.assertEqual(found["queries"], int((np.bincount(labels)[labels] > 1).sum()))
        random = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)
        np.save(os.path.join(folder, "random.npy"), random)
        flags = *flags, f"--features={folder}/random.npy", f"--train={self.data}"
        found = call("evaluate", *flags)
        self.assertLess(found["map"], 0.5)
        self.check_neighbours(flags, labels, found["queries"])
        self.assertEqual((found["whitening_images"], found["dimensions"]), (ROWS, 8))

    def check_neighbours(self, flags, labels, queries):
        table = os.path.join(self.root, "near.csv")
        call("evaluate", *flags, f"--neighbours={table}")
        with open(table, newline="") as file:
            lines = list(csv.DictReader(file))
        self.assertLen(lines, 10 * queries)
        sources = sources_of(Dataset.open(self.data), range(ROWS))
        for line in lines:
            row, query = int(line["row"]), int(line["query_row"])
            self.assertEqual((line["query"], line["source"]), (sources[query], sources[row]))
            same = row != query and labels[row] == labels[query]
            self.assertEqual(line["relevance"], "positive" if same else "none")
        similarities = np.array([float(line["similarity"]) for line in lines]).reshape(-1, 10)
        self.assertAllLessEqual(np.diff(similarities, axis=1), 1e-6)
        self.assertNotIn("", sources)

    def test_features_that_do_not_fit_are_refused(self):
        data = f"--train={self.data}", f"--test={self.data}"
        other = runs.make_data(tempfile.mkdtemp(dir=self.root), images=30)
        features = f"--features={self.features}"
        for flags, message in (
            (("--task=knn", *data), "give --model=MODEL, or --features=FEATURES"),
            (("--task=knn", *data, features, "--model=x"), "not both"),
            (("--task=knn", *data, features, "--resize=40"), "--resize is of networks"),
            (("--task=knn", *data, self.flags[0], "--stage=x"), "--stage is of networks of dc_tf"),
            (("--task=finetune", features), "--features are for knn, linear_probe, low_shot, retr"),
            (("--task=nmi", features), "--train is missing; give the data set that was embedded"),
            (("--task=knn", *data, features, "--layer=fc7"), "has no layer fc7; it has mean"),
            (("--task=knn", data[0], f"--test={other}", features), "those of --test as --test_fe"),
            (
                ("--task=linear_probe", *data, features, "--protocol=paper"),
                "features have no crops to draw",
            ),
            (
                ("--task=finetune", *data, self.flags[0]),
                "a network of another program is measured by knn, linear_probe, low_shot",
            ),
        ):
            code, text = run("evaluate", *flags)
            self.assertEqual(code, 2, text)
            self.assertIn(message, text)


def files(folder, layer):
    return sorted(glob.glob(os.path.join(folder, f"{layer}-*.npy")))


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue() if code == 0 else err.getvalue()


def call(*arguments):
    """The JSON line of a command that succeeds."""
    code, text = run(*arguments)
    assert code == 0, text
    return json.loads(text.splitlines()[-1])


if __name__ == "__main__":
    tf.test.main()
