"""YAML with a name given twice, and what is no YAML or no text, is refused with its lines."""

import os

import tensorflow as tf

from dc_tf import settings, strict_yaml, text_files
from dc_tf.errors import ConfigError
from dc_tf.evaluation.tasks import read as read_task
from dc_tf.experiment import load


class StrictYamlTest(tf.test.TestCase):
    def file(self, data, name="a.yaml"):
        path = os.path.join(self.get_temp_dir(), name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def test_a_name_given_twice_is_refused_with_both_lines(self):
        for text, message in [
            ("a: 1\nb: 2\na: 3", "'a' is given twice, in lines 1 and 3"),
            ("a: {b: 1}\nc: 1\n\na:\n  b: 2", "'a' is given twice, in lines 1 and 4"),
            ("a:\n  b: 1\n  b: 1", "'b' is given twice, in lines 2 and 3"),
            ("- {a: 1, c: 2, a: 3}", "'a' is given twice, in line 1"),
            ("{1: x, 1: y}", "1 is given twice"),
            ("a: 1\n'a': 2", "'a' is given twice, in lines 1 and 2"),
            ("a: 1\n? a\n: 2", "'a' is given twice"),
            ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is given twice"),
        ]:
            with self.assertRaisesRegex(ConfigError, f"^file: {message}", msg=text):
                strict_yaml.load(text, "file")

    def test_equal_names_of_different_mappings_and_merged_ones_are_fine(self):
        text = "base: &b {a: 1, c: 2}\nx: {<<: *b, a: 3}\ny: [{a: 1}, {a: 2}]"
        found = strict_yaml.load(text, "file")
        self.assertEqual(found["x"], {"a": 3, "c": 2})
        self.assertEqual(found["y"], [{"a": 1}, {"a": 2}])

    def test_what_is_not_yaml_is_refused_in_one_line_with_its_place(self):
        for text in ("a: [", "a: b: c", "\t- x", "a: 2024-13-45", "{[1]: 2}", "a: 1\n---\nb: 1"):
            with self.assertRaisesRegex(ConfigError, "^file is not valid YAML: ") as caught:
                strict_yaml.load(text, "file")
            self.assertNotIn("\n", str(caught.exception))
        with self.assertRaisesRegex(ConfigError, "line 2, column 4"):
            strict_yaml.load("a: 1\nb: ]", "file")

    def test_a_configuration_of_training_and_one_of_an_evaluation_are_read_so(self):
        twice = self.file(b"model: {width: 0.5}\nstages: [{}]\nmodel: {fc: 8}\n")
        for read in (lambda: load([twice]), lambda: load([], [twice])):
            with self.assertRaisesRegex(ConfigError, "a.yaml: 'model' is given twice, .* 1 and 3"):
                read()
        task = self.file(b"task: knn\ncells: 1\ncells: 2\n", "task.yaml")
        with self.assertRaisesRegex(ConfigError, "'cells' is given twice, in lines 2 and 3"):
            read_task(None, [task])

    def test_bytes_that_are_not_utf8_are_named_by_line(self):
        path = self.file(b"seed: 1\n# B\xe4r\n")
        with self.assertRaisesRegex(ConfigError, "a.yaml is not UTF-8 text: line 2 .* 0xE4"):
            load([path])
        with self.assertRaisesRegex(ConfigError, "not UTF-8"):
            load([self.file("seed: 1".encode("utf-16"))])
        marked = self.file(b"\xef\xbb\xbfseed: 4")
        self.assertEqual(settings.read([marked]), {"seed": 4})
        self.assertEqual(text_files.read(marked), "seed: 4")

    def test_a_file_that_cannot_be_read_is_named_with_the_reason(self):
        for path, reason in [
            ("/nowhere/a.yaml", "No such file"),
            (self.get_temp_dir() + "/", "Is a"),
        ]:
            with self.assertRaisesRegex(
                ConfigError, f"cannot read {path}: {reason}.*; give a file"
            ):
                load([path])


class OverrideTest(tf.test.TestCase):
    def test_a_setting_given_twice_in_one_override_is_refused_with_both_values(self):
        for override, message in [
            ("seed=1,seed=2", "seed is given twice, as 1 and as 2"),
            ("seed=1,seed=1", "seed is given twice, as 1 and as 1"),
            ("data.path=/a,data={path: /b}", "data.path is given twice, as '/a' and as '/b'"),
            ("data={path: /a},data.path=/b", "data.path is given twice"),
            ("stages[0].epochs=1,stages[00].epochs=2", r"stages\[0\].epochs is given twice"),
            ("{seed: 1, seed: 2}", "'seed' is given twice"),
            ("data.path=/a,data=3", "data is given twice|both a value and a mapping"),
            ("data={path: 1, path: 2}", "'path' is given twice"),
        ]:
            with self.assertRaisesRegex(ConfigError, message, msg=override):
                settings.read([], [override])
        with self.assertRaisesRegex(ConfigError, "data.path is given twice"):
            settings.read([], [{"data.path": "/a", "data": {"path": "/b"}}])

    def test_parts_of_a_section_are_joined_and_a_later_override_precedes(self):
        found = settings.read([], ["data.path=/a,data={flip: false}", "data.path=/b"])
        self.assertEqual(found, {"data": {"path": "/b", "flip": False}})


if __name__ == "__main__":
    tf.test.main()
