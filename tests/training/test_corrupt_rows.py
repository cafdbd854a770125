"""Training on a data set with corrupt rows: it continues, counts them, and ends where it would."""

import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers
from tensorboard_events import opened, scalars

from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import DataError
from dc_tf.run_dir import RunDir
from dc_tf.training.corrupt_rows import corrupt_rows
from dc_tf.training.monitoring.metrics import read

CORRUPT = [10, 11, 77]  # of 128


class Found:
    """FallbackRows as a worker may have them."""

    allowed = 5

    def __init__(self, *rows):
        self._rows = rows

    def rows(self):
        return np.array(self._rows, np.int64)


def _together(cluster, *found):
    try:
        return corrupt_rows(Found(*found[cluster.rank]), cluster.world)
    except DataError as error:
        return str(error)


class CorruptRowsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def data_with_corrupt_rows(self):
        path = runs.make_data(self.folder)
        dataset = Dataset.open(path)
        shards, entries = dataset.locate(CORRUPT)
        for shard, (offset, length, _) in zip(shards, entries, strict=True):
            with open(dataset.shard_path(shard), "r+b") as file:
                file.seek(offset + length // 2)
                file.write(b"\0\1\2\3")
        return path

    @pytest.mark.slow
    def test_rows_found_by_several_workers_count_once_and_all_know_of_all(self):
        for rows in workers.on_cluster(3, _together, (7, 10**10), (), (3, 7)):
            self.assertAllEqual(rows, [3, 7, 10**10])
        for rows in workers.on_cluster(2, _together, (), ()):
            self.assertEmpty(rows)
        for error in workers.on_cluster(2, _together, (1, 2, 3), (4, 5, 6)):
            self.assertRegex(error, "6 rows are corrupt.*max_bad_share allows 5")

    def train(self, settings, name, *stops):
        """(run folder, result) of a run that was given up at each of the stops."""
        folder = os.path.join(self.folder, name)
        for stop in [*stops, None]:
            (result,) = workers.on_cluster(1, runs.train, settings, folder, stop)
        return folder, result

    def settings(self):
        settings = runs.settings(self.data_with_corrupt_rows())
        settings["data"]["max_bad_share"] = 0.05
        return settings

    @pytest.mark.extended
    def test_a_run_with_corrupt_rows_resumes_as_one_that_was_not_stopped(self):
        settings = self.settings()
        whole, parts = (
            runs.end_state(self.train(settings, name, *stops)[0])
            for name, *stops in (("whole",), ("parts", ("train", 11)))
        )
        self.assertEqual(whole.keys(), parts.keys())
        for name, value in whole.items():
            self.assertAllEqual(parts[name], value, name)

    @pytest.mark.slow
    def test_a_run_counts_corrupt_rows(self):
        folder, result = self.train(self.settings(), "run", ("train", 11))
        self.assertEqual(result["corrupt_rows"], len(CORRUPT))
        lines = [line for line in read(RunDir(folder).metrics) if line["event"] == "data"]
        self.assertEqual(lines[-1]["corrupt_rows"], len(CORRUPT))
        self.assertEqual(lines[-1]["corrupt_share"], len(CORRUPT) / 128)
        shown = scalars(opened(RunDir(folder).summaries))
        for name in ("corrupt_rows", "corrupt_share"):
            expected = [(line["step"], np.float32(line[name])) for line in lines]
            self.assertEqual(shown[f"data/{name}"], expected)

    @pytest.mark.slow
    def test_without_a_share_the_first_corrupt_row_ends_the_run(self):
        settings = runs.settings(self.data_with_corrupt_rows())
        settings["data"]["max_bad_share"] = 0
        workdir = os.path.join(self.folder, "run")
        with self.assertRaisesRegex(Exception, "shard-00000.*offset.*checksum.*--verify"):
            workers.on_cluster(1, runs.train, settings, workdir)


if __name__ == "__main__":
    tf.test.main()
