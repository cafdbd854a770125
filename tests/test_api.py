"""The functions at the top of dc_tf: their examples, and that they are what the commands are."""

import contextlib
import doctest
import importlib
import inspect
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import pictures
import pytest
import tensorflow as tf

import dc_tf
from dc_tf import api, precision, shipped
from dc_tf.commands.main import main
from dc_tf.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).resolve().parents[1]
# {function: (command, {flag: argument where they differ}, flags that a function has no use for)}
COMMANDS = {
    "generate": ("generate", {}, ()),
    "convert": ("convert", {}, ()),
    "export": ("export", {"workdir": "run"}, ()),
    "embed": ("embed", {}, ()),
    "kmeans": ("kmeans", {"input": "x"}, ()),
    "curate": ("curate", {}, ()),
    "evaluate": ("evaluate", {"config_file": "config_files"}, ()),
    "finetune": ("finetune", {"config_file": "config_files"}, ()),
    "predict": ("predict", {}, ()),
    "search": ("search", {"query": "queries"}, ()),
    "find_duplicates": ("duplicates", {}, ()),
    "write_clusters": ("clusters", {"round": "round_index"}, ()),
    "assign": ("assign", {"round": "round_index"}, ()),
    "browse": ("browse", {"round": "round_index"}, ()),
    "write_report": ("report", {"round": "round_index"}, ()),
    "run_sweep": ("sweep", {}, ()),
    # The first two are of `load_experiment`, the others of a run that is only planned.
    "pretrain": (
        "train",
        {},
        (
            *("config_file", "params_override", "dry_run", "workers", "measure", "gpus"),
            *("network_gbps", "network_latency_us"),
        ),
    ),
}


@pytest.mark.slow
class SessionTest(tf.test.TestCase):
    """The examples of all functions, one after the other in one folder, then the commands there."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        stack.enter_context(working_in(cls.folder))
        for name in ("cats", "dogs"):
            for number in range(2):
                pictures.write(f"photos/{name}", f"{number}.png", pictures.encoded(number))
        dc_tf.generate("scenes_test", images=48, split="test")
        cls.names = {"dc_tf": dc_tf, "np": np}
        cls.report = io.StringIO()
        failed = run_examples(cls.names, cls.report)
        assert not failed, cls.report.getvalue()

    def call(self, *argv):
        """The JSON line of a command."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(main([*argv]), 0)
        return json.loads(out.getvalue().splitlines()[-1])

    def test_the_examples_have_done_what_they_say(self):
        self.assertEqual(self.names["clusters"].centroids.shape, (5, 8))  # of the last but one

    def test_a_finished_run_gives_its_result_again_to_the_command(self):
        text = json.dumps(self.names["experiment"].as_dict())
        found = self.call("train", f"--params_override={text}", "--workdir=RUN")
        self.assertEqual(found, json.loads(json.dumps(self.names["result"])))

    def test_the_command_embeds_the_same(self):
        flags = "--model=MODEL", "--data=scenes", "--layer=conv4", "--compute_dtype=float32"
        self.call("embed", *flags, "--output=features_of_command")
        found = np.load("features_of_command/conv4-00000-of-00001.npy")
        array = dc_tf.embed("MODEL", "scenes", layer="conv4", compute_dtype="float32")
        self.assertAllEqual(found, array)

    def test_a_trunk_in_memory_gives_the_features_of_its_model(self):
        trunk = dc_tf.load_trunk("MODEL")
        array = dc_tf.embed(trunk, dc_tf.open_dataset("scenes"))
        expected = dc_tf.embed("MODEL", "scenes", layer="fc7", compute_dtype="float32")
        self.assertAllEqual(array, expected)

    @pytest.mark.bfloat16
    def test_a_trunk_computes_in_the_type_that_is_faster_here(self):
        device = {"bfloat16_fault": lambda: "", "convolution_speed": lambda: 2.0}
        err = io.StringIO()
        with mock.patch.multiple(precision, **device), contextlib.redirect_stderr(err):
            trunk = dc_tf.load_trunk("MODEL", compute_dtype="auto")
        self.assertEqual(trunk.product_dtype, "bfloat16")
        self.assertIn("load_trunk: computes in bfloat16 (auto: bfloat16 is 2", err.getvalue())
        with mock.patch.object(precision, "convolution_speed", side_effect=AssertionError):
            self.assertEqual(dc_tf.load_trunk("MODEL").product_dtype, "float32")

    def test_the_command_clusters_the_same_as_memory_and_files(self):
        flags = "--k=4", "--precision=float32"
        self.call("kmeans", "--input=features.npy", *flags, "--output=clusters_of_command")
        found = np.load("clusters_of_command/centroids.npy")
        x = np.load("features.npy")
        given = {"x": x, "file": "features.npy", "files": [pathlib.Path("features.npy")]}
        for name, rows in given.items():
            clusters = dc_tf.kmeans(rows, 4, precision="float32")
            self.assertAllEqual(clusters.centroids, found, name)
        again = dc_tf.kmeans("features.npy", 4, "clusters_of_command", precision="float32")
        self.assertAllEqual(again.assignments, clusters.assignments)
        self.assertEqual(again.objective, clusters.objective)
        self.assertAllEqual(again.counts, clusters.counts)

    def test_the_command_measures_the_same(self):
        flags = "--task=knn", "--model=MODEL", "--train=scenes", "--test=scenes_test"
        flags += "--layer=conv4", "--noestimate"
        found = self.call("evaluate", *flags)
        own = json.loads(json.dumps(self.names["found"]))
        for name in ("layers", "random_init", "protocol", "opened"):
            self.assertEqual(own[name], found[name], name)
        self.assertIn("conv4", self.names["found"].table)

    def test_the_command_exports_the_same(self):
        own = dc_tf.export("RUN", "own.weights.h5", format="keras_weights")
        flags = "--output=found.weights.h5", "--format=keras_weights"
        found = self.call("export", "--workdir=RUN", *flags)
        self.assertEqual(own | {"export": None}, found | {"export": None})
        self.assertEqual(os.path.getsize("own.weights.h5"), os.path.getsize("found.weights.h5"))

    def test_errors_name_arguments_and_keep_the_commands_to_type(self):
        refused = [
            ("^k=97 clusters .* use k=96 or less", dc_tf.kmeans, "features.npy", 97, "K"),
            ("^k=0; use", dc_tf.kmeans, np.ones((3, 2)), 0),
            ("^k=4 clusters .* x has 3; use k=3 or less", dc_tf.kmeans, np.ones((3, 2)), 4),
            ("^k is missing", dc_tf.kmeans, np.ones((3, 2))),
            ("^x has no rows", dc_tf.kmeans, np.ones((0, 2)), 1),
            ("overwrite=True", dc_tf.export, "RUN", "MODEL"),
            ("^task is 'none'", dc_tf.evaluate, "none", "MODEL"),
            (r"`dc_tf convert --input=", dc_tf.open_dataset, "nowhere"),
        ]
        for text, function, *args in refused:
            with self.assertRaisesRegex((ConfigError, DataError), text):
                function(*args)
        with self.assertRaisesRegex(ConfigError, "^compute_dtype is 'half'"):
            dc_tf.embed("MODEL", "scenes", compute_dtype="half")
        with self.assertRaisesRegex(ConfigError, "workdir=.* holds a run|another workdir"):
            dc_tf.pretrain(self.names["experiment"].replace(seed=5), "RUN")
        with self.assertRaisesRegex(ConfigError, "np.save"):
            dc_tf.kmeans(np.ones((3, 2)), 2, output="K")

    def test_numbers_that_a_setting_of_kmeans_cannot_hold(self):
        x = np.ones((3, 2), np.float32)
        for wrong, message in (
            ({"cache_gb": np.inf}, "^cache_gb=inf; use a number from 0"),
            ({"cache_gb": "1"}, "^cache_gb='1'; use a number"),
            ({"timeout_s": np.nan}, "^timeout_s=nan; use a number"),
            ({"tolerance": np.float32(1.5)}, "^tolerance=1.5; use a share"),
            ({"iterations": 2.5}, "^iterations=2.5; use a whole number"),
            ({"seed": -1}, "^seed=-1; use a whole number"),
            ({"normalize": "no"}, "^normalize=.*'no'; use True or False"),
            ({"init": x[:1]}, r"^init has shape \(1, 2\); k=2 and rows of 2 need \(2, 2\)"),
            ({"init": None}, r"^init has shape \(\)"),
            ({"init": x[:2] * 1j}, "^init has dtype complex64; use float32"),
            ({"init": x[:2] * np.nan}, "^init has values that are not finite"),
        ):
            with self.assertRaisesRegex((ConfigError, DataError), message):
                dc_tf.kmeans(x, 2, **wrong)

    def test_kmeans_takes_numbers_of_numpy_also_with_files(self):
        np.save("numbers.npy", np.random.default_rng(0).normal(size=(30, 2)))
        options = {"tolerance": np.float32(0.5), "spherical": np.bool_(False), "seed": np.int64(3)}
        files = dc_tf.kmeans("numbers.npy", np.int64(4), "numbers_clustered", **options)
        memory = dc_tf.kmeans("numbers.npy", np.int8(4), **options)
        self.assertAllEqual(files.assignments, memory.assignments)


class FrontDoorTest(tf.test.TestCase):
    def test_a_function_has_the_arguments_and_defaults_of_its_command(self):
        for name, (command, renamed, left_out) in COMMANDS.items():
            own = inspect.signature(getattr(api, name)).parameters
            flags = importlib.import_module(f"dc_tf.commands.{command}").FLAGS
            for flag in set(flags) - {"v", "verbosity", *left_out}:
                default = own[renamed.get(flag, flag)].default
                default = None if default is inspect.Parameter.empty else default
                if isinstance(default, str | tuple) and isinstance(flags[flag].default, list):
                    default = [default] if isinstance(default, str) else list(default)
                if (name, flag) == ("generate", "classes"):  # None: as many as there are
                    continue
                self.assertEqual(default, flags[flag].default, f"{name}, --{flag}")

    def test_overrides_are_text_mappings_or_names(self):
        given = [
            {"params_override": "data.path=D,stages[1].epochs=3"},
            {"params_override": {"data.path": pathlib.Path("D"), "stages[1].epochs": 3}},
            {"params_override": ["data.path=D", {"stages[1]": {"epochs": 3}}]},
            {"data": {"path": "D"}, "stages[1]": {"epochs": 3}},
        ]
        for arguments in given:
            experiment = dc_tf.load_experiment("quickstart", **arguments)
            self.assertEqual((experiment.data.path, experiment.stages[1].epochs), ("D", 3))
            self.assertEqual(experiment.stages[0].epochs, 10)
        with self.assertRaisesRegex(ConfigError, "both a value and a mapping"):
            dc_tf.load_experiment("quickstart", {"seed": 1, "seed.x": 2})

    def test_presets_are_found_by_name_and_a_wrong_one_lists_them(self):
        for path in sorted((ROOT / "configs").rglob("*.yaml")):
            self.assertTrue(os.path.samefile(shipped.config_file(path.stem), path))
        self.assertEqual(shipped.config_file("mine.yaml"), "mine.yaml")
        self.assertEqual(shipped.config_file(pathlib.Path("/a/mine")), "/a/mine")
        message = "'mine', which .* Presets of train: cifar10_small, .*quickstart.*linear_probe_voc"
        with self.assertRaisesRegex(ConfigError, message):
            dc_tf.load_experiment("mine", data={"path": "D"})

    def test_no_module_takes_the_place_of_a_function(self):
        modules = {path.stem for path in pathlib.Path(dc_tf.__file__).parent.iterdir()}
        self.assertEmpty(modules & set(dc_tf.__all__))
        for name in dc_tf.__all__:
            self.assertTrue(inspect.isfunction(getattr(dc_tf, name)), name)

    def test_import_help_and_completion_import_nothing_slow(self):
        program = (
            "import sys, dc_tf\n"
            "assert 'numpy' not in sys.modules\n"
            "assert set(dc_tf.__all__) <= set(dir(dc_tf))\n"
            "import pydoc; text = pydoc.render_doc(dc_tf)\n"
            f"assert all(f'{{name}}' in text for name in {api.__all__}), text\n"
            "for name in dc_tf.__all__: assert callable(getattr(dc_tf, name)), name\n"
            "assert 'tensorflow' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(api.__all__), dc_tf.__all__)


@contextlib.contextmanager
def working_in(folder):
    """Inside, relative paths are of `folder`."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_examples(names, report) -> int:
    """Runs the examples of all functions in their order, with these names, up to a failure.

    Returns:
        number of failures.
    """
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    for name in api.__all__:
        text = inspect.getdoc(getattr(api, name))
        test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
        assert test.examples, f"{name} has no example"
        test.globs = names
        if runner.run(test, out=report.write, clear_globs=False).failed:
            break
    return runner.failures


if __name__ == "__main__":
    tf.test.main()
