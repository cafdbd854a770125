"""Outputs that cannot be made, and a wrong TF_CONFIG, get the same sentence from every command."""

import contextlib
import io
import json
import os
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from ports import held_port

from dc_tf.commands.main import main
from dc_tf.data.synthetic.generate import generate

FOLDERS = [
    "generate --output={}",
    "convert --input=pictures --output={}",
    "index --input=DATA/*.tfrecord --output={}",
    "embed --model=MODEL --data=DATA --output={}",
    "export --workdir=RUN --output={}",
    "finetune --model=MODEL --train=DATA --test=DATA --output={}",
    "import_torch --checkpoint=x.pth --output={}",
    "kmeans --input=x.npy --k=2 --output={}",
    "replay RUN --output={}",
    "train --config_file=quickstart --params_override=data.path=DATA --workdir={}",
    "evaluate --task=knn --model=MODEL --train=DATA --test=DATA --watch_dir={}",
    "sweep --config_file=methods_small --data=DATA --test=DATA --workdir={}",
]
FILES = [
    "evaluate --task=knn --model=MODEL --train=DATA --test=DATA --output={}.json",
    "evaluate --task=knn --model=MODEL --train=DATA --test=DATA --plot={}.png",
    "evaluate --task=knn --model=MODEL --train=DATA --test=DATA --neighbours={}.csv",
    "export --workdir=RUN --format=keras --output={}.keras",
    "inspect DATA --output={}.png",
    "predict --model=MODEL --data=DATA --output={}.csv",
]
WORKERS = [
    "assign --run=RUN --data=DATA --output=out",
    "browse --run=RUN",
    "clusters --run=RUN --output=out",
    "curate --data=DATA --where=label=1 --output=out",
    "duplicates --run=RUN --output=out",
    "report --run=RUN --output=out",
    "search --run=RUN --query=1",
    "embed --model=MODEL --data=DATA --output=out",
    "finetune --model=MODEL --train=DATA --test=DATA --output=out",
    "predict --model=MODEL --data=DATA --output=out.csv",
    "evaluate --task=knn --model=MODEL --train=DATA --test=DATA",
    "kmeans --input=x.npy --k=2 --output=out",
    "train --config_file=quickstart --params_override=data.path=DATA --workdir=out",
    "train --config_file=quickstart --params_override=data.path=DATA --workdir=out --dry_run",
]


class RefusalsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.get_temp_dir(), "here")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(os.path.join(self.folder, "pictures"))
        generate(os.path.join(self.folder, "DATA"), images=8, size=32, processes=1)
        pathlib.Path(self.folder, "a file").touch()
        np.save(os.path.join(self.folder, "x.npy"), np.eye(4, dtype=np.float32))
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)

    def refusal(self, line, place=None, **environment):
        """The last line on stderr of a command that is refused."""
        argv = [word.format(place) for word in line.split(" ")]
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(out):
            with contextlib.redirect_stderr(err):
                code = main(argv)
        self.assertEqual(code, 2, f"{argv}: {err.getvalue()}")
        self.assertNotIn("Traceback", err.getvalue())
        return err.getvalue().splitlines()[-1]

    def test_an_output_below_a_file_is_refused_by_every_command(self):
        before = sorted(os.listdir("."))
        for line in FOLDERS + FILES:
            said = self.refusal(line, "a file/x")
            self.assertRegex(
                said, r"^dc_tf: --\w+=.*a file/x.* cannot be written: .* is a file; use"
            )
        self.assertEqual(sorted(os.listdir(".")), before)

    def test_a_file_in_place_of_a_folder_is_refused_and_the_reverse(self):
        for line in FOLDERS:
            self.assertIn("a file is a file; name a folder.", self.refusal(line, "a file"))
        for line in FILES:
            ending = line.rpartition(".")[2]
            os.makedirs(f"a folder.{ending}", exist_ok=True)
            said = self.refusal(line, "a folder")
            self.assertIn(f"a folder.{ending} is a folder; name a file.", said)

    def test_a_file_in_a_folder_that_is_missing_is_refused(self):
        for line in FILES:
            said = self.refusal(line, "missing/x")
            self.assertIn(f"the folder {os.getcwd()}/missing does not exist", said)

    def test_a_place_where_nothing_can_be_made_is_refused(self):
        for line in FOLDERS + FILES:
            self.assertIn("nothing can be made in /proc", self.refusal(line, "/proc/x"))

    def test_every_command_refuses_a_wrong_tf_config_in_the_same_words(self):
        worker = ["a:1", "a:1"]
        task = {"type": "worker", "index": 0}
        for text in ("x", json.dumps({"cluster": {"worker": worker}, "task": task})):
            said = {self.refusal(line, TF_CONFIG=text) for line in WORKERS}
            self.assertLen(said, 1)
            self.assertStartsWith(said.pop(), "dc_tf: TF_CONFIG ")
        self.assertFalse(os.path.exists("out"))

    @pytest.mark.slow
    def test_every_command_names_a_port_that_is_in_use(self):
        with held_port() as (port, _):
            cluster = {"worker": [f"localhost:{port}", "localhost:1"]}
            text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
            lines = [*WORKERS[-4:-1], f"{WORKERS[-1]} --measure"]
            said = {self.refusal(line, TF_CONFIG=text) for line in lines}
        self.assertLen(said, 1)
        self.assertIn(f"port {port} of this worker", said.pop())

    def test_a_tilde_is_the_home_folder_and_never_a_folder_of_that_name(self):
        with mock.patch.dict(os.environ, HOME=os.path.join(self.folder, "home")):
            os.mkdir("home")
            self.assertEqual(main(["generate", "--output=~/made", "--images=2", "--size=32"]), 0)
            self.assertEqual(main(["inspect", "~/made", "--output=~/sheet.png"]), 0)
        self.assertContainsSubset({"made", "sheet.png"}, os.listdir("home"))
        self.assertNotIn("~", os.listdir("."))


if __name__ == "__main__":
    tf.test.main()
