"""The runs that benchmarks compare: what is finished is not started again."""

import importlib.util
import os
import pathlib
import tempfile
from unittest import mock

import runs
import tensorflow as tf

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def benchmark(name):
    """A module of benchmarks/, one of which has a namesake among the tests."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RunsTest(tf.test.TestCase):
    def test_only_a_finished_run_with_the_same_settings_on_the_same_data_is_not_started(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data = runs.make_data(folder, images=40)
        settings = runs.settings(data)
        workdir = runs.finished(folder, settings, data)
        module = benchmark("runs")
        with mock.patch.object(module, "dc_tf") as started:
            module.train(workdir, data, dict(settings))
            started.assert_not_called()
            module.train(workdir, data, {**settings, "seed": 5})
            other = runs.make_data(tempfile.mkdtemp(dir=folder), images=41)
            module.train(workdir, other, dict(settings))
            os.remove(os.path.join(workdir, "result.json"))
            module.train(workdir, data, dict(settings))
            self.assertEqual(started.call_count, 3)


if __name__ == "__main__":
    tf.test.main()
