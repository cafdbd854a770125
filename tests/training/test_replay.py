"""A step that is drawn again is the one that was trained on, whatever the number of workers."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.atomic import write_json
from dc_tf.commands.main import main
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.errors import ConfigError, DataError
from dc_tf.run_dir import RunDir
from dc_tf.training import loop
from dc_tf.training.replay import find_step, replay


@pytest.mark.slow
class ReplayTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.settings = runs.settings(runs.make_data(cls.folder))
        cls.path = os.path.join(cls.folder, "run")
        cls.fed = workers.on_cluster(2, _train_and_keep, cls.settings, cls.path)

    def test_every_step_has_the_images_that_the_workers_got(self):
        self.assertLen(self.fed[0], 20)
        for step in (1, 8, 9, 16, 17, 20):
            batch = replay(RunDir(self.path), step)
            fed = [worker[step - 1] for worker in self.fed]
            for name in ("super_id", "sub_id"):
                expected = np.concatenate([part[name] for part in fed])
                self.assertAllEqual(np.sort(getattr(batch.draws, name)), np.sort(expected))
            images = np.concatenate([part["image"] for part in fed])
            self.assertAllEqual(_sorted(batch.images), _sorted(images))
        self.assertEqual((batch.stage, batch.epoch, batch.step), ("deepercluster", 2, 3))

    def test_the_command_writes_a_line_for_each_image_and_a_sheet(self):
        run = RunDir(self.path)
        with self.assertRaisesRegex(ConfigError, "no failed step; name one with --step"):
            find_step(run)
        write_json(run.failed_step, {"global_step": 10})
        self.addCleanup(os.remove, run.failed_step)
        output = os.path.join(self.folder, "step")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            self.assertEqual(main(["replay", self.path, f"--output={output}"]), 0)
        result = json.loads(out.getvalue().splitlines()[-1])
        self.assertEqual((result["step"], result["stage"]), (10, "deepercluster"))
        lines = pathlib.Path(output, "batch.jsonl").read_text().splitlines()
        row = json.loads(lines[0])
        self.assertLen(lines, 32)
        self.assertRegex(row["record"], rf"row {row['row']} \(.*offset \d+")
        reader = RowReader(Dataset.open(self.settings["data"]["path"]))
        for row in map(json.loads, lines):
            self.assertEqual(row["source"], reader.examples([row["row"]])[0]["source"])
            self.assertIsNone(row["replaced_by"])
        self.assertNotEmpty(row["source"])
        self.assertGreater(pathlib.Path(result["sheet"]).stat().st_size, 1000)

    def test_what_is_not_there_is_refused(self):
        with self.assertRaisesRegex(
            ConfigError, "--step is 21; use one of the steps of the run, 1 to 20"
        ):
            replay(RunDir(self.path), 21)
        with self.assertRaisesRegex(ConfigError, "is not a run folder"):
            replay(RunDir(self.folder), 1)
        gone = RunDir(self.path).clustering(1, 0)
        os.rename(gone, gone + "-away")
        self.addCleanup(os.rename, gone + "-away", gone)
        with self.assertRaisesRegex(DataError, "has the clusters of that step, is missing"):
            replay(RunDir(self.path), 9)


class CorruptTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_a_corrupt_row_has_the_source_of_the_image_that_replaces_it(self):
        folder = self.get_temp_dir()
        data = runs.make_data(folder)
        settings = runs.settings(data, stages=runs.SETTINGS["stages"][:1])
        settings["data"]["max_bad_share"] = 0.05
        run = RunDir(runs.finished(folder, settings, data))
        first = replay(run, 1)
        dataset = Dataset.open(data)
        row = int(first.draws.row[0])
        (shard,), ((offset, length, _),) = dataset.locate([row])
        with open(dataset.shard_path(shard), "r+b") as file:
            file.seek(offset + length // 2)
            file.write(b"\0\1\2\3")
        found = replay(run, 1).rows()[0]
        replacement = (row + 1) % 128
        self.assertEqual((found["row"], found["replaced_by"]), (row, replacement))
        (example,) = RowReader(dataset).examples([replacement])
        self.assertEqual(found["source"], example["source"])


def _sorted(images):
    flat = images.reshape(len(images), -1)
    return flat[np.lexsort(flat.T[::-1][:64])]


def _train_and_keep(cluster, settings, workdir):
    """Trains; returns the batches that this worker was given, in order."""
    fed, make = [], loop.training_batches

    def keeping(*args, **kwargs):
        for batch in make(*args, **kwargs):
            fed.append({name: tensor.numpy() for name, tensor in batch.items()})
            yield batch

    loop.training_batches = keeping
    try:
        runs.train(cluster, settings, workdir)
    finally:
        loop.training_batches = make
    return fed


if __name__ == "__main__":
    tf.test.main()
