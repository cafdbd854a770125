"""Flags hold what their type can hold, and every flag for a path expands `~`."""

import importlib
import os
import re
from unittest import mock

import tensorflow as tf
from absl import flags

from dc_tf.commands.flags.define import CommandFlags, PathParser
from dc_tf.commands.main import COMMANDS

# Texts that speak of files and folders without being one.
NO_PATHS = {
    ("convert", "labels_from_folders"),
    ("convert", "overwrite"),
    ("convert", "split"),
    ("convert", "to"),
    ("convert", "encoding"),
    ("convert", "value_range"),
    ("curate", "format"),
    ("embed", "dtype"),
    ("embed", "rows_per_file"),
    ("report", "max_mb"),
    ("evaluate", "task"),
    ("evaluate", "protocol"),
    ("finetune", "protocol"),
    ("evaluate", "params_override"),  # expanded by `settings`
    ("train", "params_override"),
}


class CommandFlagsTest(tf.test.TestCase):
    def parsed(self, *args):
        values = CommandFlags()
        holders = {
            "k": values.integer("k", None, "Number.", lower_bound=1),
            "seed": values.integer("seed", 0, "Seed."),
            "share": values.float("share", 0.5, "Share.", lower_bound=0, upper_bound=1),
            "wait_s": values.float("wait_s", 1.0, "Seconds."),
            "output": values.path("output", None, "Folder."),
            "input": values.paths("input", None, "Files."),
            "config": values.multi_path("config", [], "Files."),
        }
        values(["program", *args])
        return {name: holder.value for name, holder in holders.items()}

    def test_numbers_inside_the_bounds_are_taken(self):
        found = self.parsed("--k=2147483647", "--seed=-2147483648", "--share=1", "--wait_s=1e9")
        self.assertEqual((found["k"], found["seed"]), (2**31 - 1, -(2**31)))
        self.assertEqual((found["share"], found["wait_s"]), (1.0, 1e9))
        self.assertEqual(self.parsed()["share"], 0.5)

    def test_numbers_that_the_type_cannot_hold_are_refused_with_the_bounds(self):
        whole, number = "use a whole number from", "use a number from"
        for flag, message in [
            ("--k=0", f"{whole} 1 to 2147483647"),
            ("--k=2147483648", whole),
            ("--k=1.5", whole),
            ("--k=true", whole),
            ("--k=", whole),
            ("--seed=9223372036854775808", f"{whole} -2147483648 to 2147483647"),
            ("--seed=nan", whole),
            ("--seed=1e3", whole),
            ("--share=1.5", f"{number} 0 to 1"),
            ("--share=-0.1", number),
            ("--share=nan", number),
            ("--share=x", number),
            ("--share=true", number),
            ("--wait_s=inf", number),
            ("--wait_s=-inf", number),
            ("--wait_s=1e400", number),
            ("--wait_s=1e10", number),
        ]:
            with self.assertRaisesRegex(flags.Error, message, msg=flag):
                self.parsed(flag)

    def test_paths_start_at_home_where_they_start_with_a_tilde(self):
        with mock.patch.dict(os.environ, HOME="/home/me"):
            found = self.parsed(
                "--output=~/x", "--input=~/a-*.npy,/b,~/c", "--config=~/a.yaml", "--config=b"
            )
        self.assertEqual(found["output"], "/home/me/x")
        self.assertEqual(found["input"], "/home/me/a-*.npy,/b,/home/me/c")
        self.assertEqual(found["config"], ["/home/me/a.yaml", "b"])
        with self.assertRaisesRegex(flags.Error, "no user here"):
            self.parsed("--output=~nobody-here/x")

    def test_every_flag_that_names_a_file_or_folder_is_such_a_path(self):
        seen = 0
        for command, module in COMMANDS.items():
            values = getattr(importlib.import_module(module), "FLAGS", {})
            for name in values:
                flag = values[name]
                if re.search(r"\b([Ff]olders?|[Ff]iles?|SavedModel)\b", flag.help):
                    if (command, name) not in NO_PATHS and not flag.boolean:
                        self.assertIsInstance(flag.parser, PathParser, f"{command} --{name}")
                        seen += 1
        self.assertGreater(seen, 20)


if __name__ == "__main__":
    tf.test.main()
