"""Features on disk: their origin, their values, and resuming an interrupted call."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import tempfile
from unittest import mock

import numpy as np
import pictures
import pytest
import runs
import tensorflow as tf

from dc_tf.atomic import write_json
from dc_tf.commands.main import main
from dc_tf.data.convert import convert
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, Preempted
from dc_tf.evaluation.frozen import embed as embed_lib
from dc_tf.evaluation.frozen.embed import embed
from dc_tf.evaluation.frozen.features import Extractor
from dc_tf.evaluation.models import open_model, random_init
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.exporting.weights import weights_digest
from dc_tf.nn.vgg16 import VGG16
from dc_tf.precision import Choice
from dc_tf.run_dir import RunDir

RESOLUTION, ROWS, PER_FILE = 32, 50, 16


@pytest.mark.slow
class EmbedTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.data = runs.make_data(cls.root, images=ROWS)
        cls.model = os.path.join(cls.root, "model")
        trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=12, seed=7).built_at_resolution()
        export_saved_model(trunk, cls.model, short_side=RESOLUTION)
        cls.frozen = open_model(cls.model)
        cls.dataset = Dataset.open(cls.data)
        images = evaluation_batches(
            RowReader(cls.dataset), np.arange(ROWS), ROWS, RESOLUTION, RESOLUTION
        )
        (batch,) = images
        cls.expected = trunk(batch["image"], training=False)

    def folder(self):
        return os.path.join(tempfile.mkdtemp(dir=self.root), "features")

    def write(self, folder, dataset=None, **changes):
        settings = dict(layers=("conv13", "fc7"), batch_size=8, rows_per_file=PER_FILE)
        return embed(self.frozen, dataset or self.dataset, folder, **{**settings, **changes})

    def read(self, folder, name):
        paths = sorted(tf.io.gfile.glob(os.path.join(folder, f"{name}-*.npy")))
        return [np.load(path) for path in paths]

    def test_all_rows_are_there_in_order_with_the_features_of_the_network(self):
        folder = self.folder()
        about = self.write(folder)
        self.assertEqual((about["rows"], about["files"]), (ROWS, 4))
        self.assertEqual([len(part) for part in self.read(folder, "rows")], [16, 16, 16, 2])
        self.assertAllEqual(np.concatenate(self.read(folder, "rows")), np.arange(ROWS))
        fc7, conv13 = (np.concatenate(self.read(folder, name)) for name in ("fc7", "conv13"))
        self.assertAllClose(fc7, self.expected["fc7"], atol=1e-4)
        self.assertAllClose(conv13, tf.reduce_mean(self.expected["conv13"], (1, 2)), atol=1e-4)
        self.assertEqual(about["dims"], {"conv13": 32, "fc7": 12})

    def test_every_row_names_its_file(self):
        folder = self.folder()
        names = [f"a/{number} ü\n.png" for number in range(5)]
        data = self.converted(names, folder="DATA")
        self.write(folder, dataset=data, batch_size=2, rows_per_file=2)
        lines = self.sources(folder)
        self.assertEqual([len(part) for part in lines], [2, 2, 1])
        lines = sum(lines, [])
        self.assertEqual([line["row"] for line in lines], list(range(5)))
        expected = [example["source"] for example in RowReader(data).examples(np.arange(5))]
        self.assertEqual([line["source"] for line in lines], expected)
        self.assertLen(set(expected), 5)

    def test_a_replaced_row_names_the_file_that_was_used(self):
        data = self.converted([f"{number}.png" for number in range(4)], folder="DAMAGED")
        shard, (offset, *_) = data.shard_path(0), data.locate([1])[1][0]
        with open(shard, "r+b") as file:
            file.seek(offset + 20)
            file.write(b"damage")
        folder = self.folder()
        self.write(folder, dataset=Dataset.open(data.path), max_bad_share=0.5)
        (lines,) = self.sources(folder)
        self.assertEqual(lines[1], {"row": 1, "source": "2.png", "replaced_by": 2})
        self.assertEqual(lines[2], {"row": 2, "source": "2.png"})

    def test_a_file_of_sources_that_is_missing_is_written_again(self):
        folder = self.folder()
        self.write(folder)
        before = self.sources(folder)
        os.remove(os.path.join(folder, "sources-00001-of-00004.jsonl"))
        self.write(folder)
        self.assertEqual(self.sources(folder), before)

    def converted(self, names, folder):
        images = os.path.join(self.root, folder, "images")
        for number, name in enumerate(names):
            pictures.write(images, name, pictures.encoded(number))
        convert(images, os.path.join(self.root, folder, "data"), workers=1)
        return Dataset.open(os.path.join(self.root, folder, "data"))

    def sources(self, folder):
        paths = sorted(tf.io.gfile.glob(os.path.join(folder, "sources-*.jsonl")))
        return [[json.loads(line) for line in open(path, encoding="utf-8")] for path in paths]

    def test_float16_is_clipped_to_its_range(self):
        folder = self.folder()
        large = {"fc7": tf.fill([ROWS, 12], 1e6)}
        with mock.patch.object(Extractor, "__call__", return_value=large):
            self.write(folder, layers=("fc7",), dtype="float16", rows_per_file=48, batch_size=ROWS)
        (found,) = self.read(folder, "fc7")
        self.assertEqual(found.dtype, np.float16)
        self.assertAllEqual(found, np.full((ROWS, 12), 65504, np.float16))

    def test_an_interrupted_call_resumes_to_the_same_bytes(self):
        whole, parts = self.folder(), self.folder()
        self.write(whole)
        call, calls = Extractor.__call__, []

        def stop_at_the_fifth(extractor, images):
            calls.append(len(images))
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return call(extractor, images)

        self.addCleanup(stop_request.reset)
        with mock.patch.object(Extractor, "__call__", stop_at_the_fifth):
            with self.assertRaises(Preempted), stop_request.signals_handled():
                self.write(parts)
            self.assertLen(self.read(parts, "fc7"), 2)
            stop_request.reset()
            self.write(parts)
        self.assertLen(calls, 5 + 3)  # two files of two batches stayed; two of 2 and 1 were made
        for name in os.listdir(whole):
            with open(os.path.join(whole, name), "rb") as a:
                with open(os.path.join(parts, name), "rb") as b:
                    self.assertEqual(a.read(), b.read(), name)

    def test_a_folder_of_something_else_is_refused(self):
        folder = self.folder()
        self.write(folder)
        for changes, message in (
            ({"layers": ("fc6",)}, "other features .different: dims"),
            ({"dtype": "float16"}, "other features .different: dtype"),
            ({"dtype": "int8"}, "dtype is 'int8'.* use float16 or float32"),
            ({"cells": 0}, "cells is 0; use a positive number"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                self.write(folder, **changes)
        other = dataclasses.replace(self.frozen, trunk=random_init(self.frozen).trunk)
        with self.assertRaisesRegex(ConfigError, "other features .different: weights"):
            embed(other, self.dataset, folder, ("conv13", "fc7"), 1, "float32", 8, PER_FILE)
        with self.assertRaisesRegex(ConfigError, "holds other files"):
            self.write(self.data)

    def test_the_command_writes_what_kmeans_reads(self):
        folder, clusters = self.folder(), self.folder()
        code, out, err = call(
            "embed", f"--model={self.model}", f"--data={self.data}", f"--output={folder}"
        )
        self.assertEqual(code, 0, err)
        self.assertEqual(json.loads(out.splitlines()[-1])["dims"], {"fc7": 12})
        code, out, err = call(
            "kmeans", f"--input={folder}/fc7-*.npy", "--k=3", f"--output={clusters}"
        )
        self.assertEqual(code, 0, err)
        self.assertLen(np.load(os.path.join(clusters, "assignments.npy")), ROWS)
        flags = [f"--model={self.model}", f"--data={self.data}", "--random_init", "--seed=3"]
        untrained = self.folder()
        code, out, err = call("embed", *flags, f"--output={untrained}")
        self.assertEqual(code, 0, err)
        expected = weights_digest(random_init(open_model(self.model), seed=3).trunk)
        self.assertEqual(json.loads(out.splitlines()[-1])["weights"], expected)
        self.assertNotAllClose(*(self.read(path, "fc7") for path in (folder, untrained)))
        code, _, err = call("embed", *flags, f"--output={folder}")
        self.assertEqual(code, 2, "features of a network beside those of another")


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


class ComputeDtypeTest(tf.test.TestCase):
    def run_of(self, dtype):
        path = os.path.join(self.get_temp_dir(), dtype)
        os.makedirs(path, exist_ok=True)
        with open(RunDir(path).config, "w", encoding="utf-8") as file:
            file.write(f"data: {{path: D}}\nmodel: {{compute_dtype: {dtype}}}\nstages: [{{}}]\n")
        return path

    def chosen(self, speed, asked="auto", **how):
        dtype = "bfloat16" if speed >= 1.1 else "float32"
        with mock.patch.object(embed_lib, "choose") as choose:
            choose.side_effect = lambda asked, *_, **__: Choice(asked, dtype, speed, "measured")
            choice = embed_lib.compute_dtype(how.pop("output", None), asked, **how)
        return choice.dtype, choose.called

    def test_a_run_s_features_have_its_type_unless_that_is_slower_here(self):
        for dtype, speed, expected in (
            ("float32", 2.0, ("float32", False)),
            ("bfloat16", 2.0, ("bfloat16", True)),
            ("bfloat16", 1.05, ("bfloat16", True)),
            ("bfloat16", 0.12, ("float32", True)),
            ("float16", 2.0, ("bfloat16", True)),
        ):
            self.assertEqual(self.chosen(speed, model=self.run_of(dtype)), expected)
        self.assertEqual(self.chosen(1.05, model="/no/run"), ("float32", True))

    def test_what_was_asked_for_or_begun_comes_first(self):
        run = self.run_of("float32")
        self.assertEqual(self.chosen(2.0, "bfloat16", model=run), ("bfloat16", True))
        output = os.path.join(self.get_temp_dir(), "features")
        os.makedirs(output)
        write_json(os.path.join(output, embed_lib.ABOUT), {"compute_dtype": "bfloat16"})
        self.assertEqual(self.chosen(0.5, output=output, model=run), ("bfloat16", False))


if __name__ == "__main__":
    tf.test.main()
