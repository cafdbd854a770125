"""Results on a terminal, which gets a table, and in a pipe, which gets JSON."""

import json
import os
import pathlib
import sys

import numpy as np
import tensorflow as tf
import terminals

from dc_tf.commands.terminal import results
from dc_tf.commands.terminal.results import Result

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHOW = """
import sys
from dc_tf.commands.terminal.results import Result, show
values = {"rows": 4000, "loss": 0.123456, "found": {f"name{n}": n for n in range(500)}}
in_file = Result(values, shown=True, path="/runs/mine/result.json")
with_flag = Result(values, shown=True, flag="--output")
show({"plain": values, "shown": in_file, "with_flag": with_flag}[sys.argv[1]])
"""


class ResultsTest(tf.test.TestCase):
    def on_terminal(self, *command):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        code, shown = terminals.run([sys.executable, *command], environment)
        self.assertEqual(code, 0, shown)
        return [line for line in terminals.last_state(shown) if line]

    def test_a_table_is_short_whatever_the_result_holds(self):
        shown = results.table({"a": np.float32(0.5), "b": list(range(999)), "c": None, "d": "x\ny"})
        lines = shown.splitlines()
        self.assertEqual(lines[0], "a  0.5")
        self.assertLessEqual(max(map(len, lines)), 100)
        self.assertEndsWith(lines[1], "...")
        self.assertEqual(lines[2:], ["c  -", "d  x y"])
        many = results.table({f"name{n}": n for n in range(100)}).splitlines()
        self.assertLen(many, 31)
        self.assertEqual(many[-1], "... and 70 more")

    def test_a_terminal_gets_a_table_and_how_to_get_the_json(self):
        lines = self.on_terminal("-c", SHOW, "plain")
        self.assertEqual(lines[0], "rows   4,000")
        self.assertEqual(lines[1], "loss   0.1235")
        self.assertStartsWith(lines[2], "found  name0 0, name1 1")
        self.assertEqual(lines[3:], ["whole result, as JSON: add | cat"])

    def test_what_was_shown_is_not_shown_again_and_its_file_is_named(self):
        lines = self.on_terminal("-c", SHOW, "shown")
        self.assertEqual(lines, ["whole result: /runs/mine/result.json"])
        lines = self.on_terminal("-c", SHOW, "with_flag")
        self.assertEqual(lines, ["whole result, as JSON: add --output=FILE, or | cat"])

    def test_a_command_on_a_terminal_ends_with_its_table_and_its_bar(self):
        folder = self.get_temp_dir()
        lines = self.on_terminal("-m", "dc_tf", "generate", f"--output={folder}/d", "--images=9")
        self.assertRegex(lines[0], r"^generate: 100%\|.*\| 9/9 images \[.*images/s\]$")
        self.assertEqual(lines[1].split(), ["output", f"{folder}/d"])
        self.assertNotIn("{", "".join(lines))
        lines = self.on_terminal("-m", "dc_tf", "inspect", f"{folder}/d")
        self.assertStartsWith(lines[0], "data set")
        self.assertEqual(lines[-1], "whole result, as JSON: add | cat")
        self.assertNotIn("{", "".join(lines))

    def test_a_result_with_a_file_is_the_same_json(self):
        values = {"a": np.int64(3), "b": [float("nan")]}
        self.assertEqual(
            json.dumps(results.plain(Result(values, path="p"))), '{"a": 3, "b": [null]}'
        )


if __name__ == "__main__":
    tf.test.main()
