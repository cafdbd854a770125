"""Metadata of strangers: bounded in number and length, and nothing to fool a reader with."""

import numpy as np
import tensorflow as tf

from dc_tf.data.storage import schema
from dc_tf.data.storage.metadata import MAX_ITEMS, MAX_TEXT, bounded, text


class MetadataTest(tf.test.TestCase):
    def test_what_can_be_kept_is_kept(self):
        meta = {"a": "x", "b": 1, "c": 1.5, "d": ["x", "y"], "e": [1, 2], "f": [0.5, 1]}
        self.assertEqual(bounded(meta), {**meta, "f": [0.5, 1.0]})

    def test_values_change_into_what_can_be_stored_or_go(self):
        for value, expected in [
            (True, 1), (None, None), ("", None), (float("nan"), None), (float("inf"), None),
            (2**63, None), (-(2**63), -(2**63)), (b"caf\xc3\xa9\xff", "caf\u00e9\ufffd"),
            ([], None), ([None], None), (["a", 1, None], ["a", "1"]), ([[1], [2]], None),
            (np.int32(3), 3), (np.array([1.5, 2]), [1.5, 2.0]), (np.zeros(MAX_ITEMS + 1), None),
            ({"x": {"y": 1}}, None), (object(), None), (b"x", "x"),
        ]:  # fmt: skip
            self.assertEqual(bounded({"a": value}).get("a"), expected, repr(value))
        self.assertEqual(bounded({"a": {"b": {"c": 1}, "d": 2}}), {"a.b.c": 1, "a.d": 2})

    def test_text_has_no_controls_and_an_end(self):
        self.assertEqual(text("a\x00\x1b[31mb\r\nc\u202ed\u2028e\x9bf"), "a [31mb c d e f")
        self.assertLen(text("x" * 10**6), MAX_TEXT)
        self.assertEqual(text("\ud800a\udcff"), "a")
        self.assertEqual(text("caf\u00e9 \U0001f600"), "caf\u00e9 \U0001f600")

    def test_numbers_of_names_values_and_levels_are_bounded(self):
        meta = bounded({f"n{i}" * 100: i for i in range(10**4)})
        self.assertLen(meta, MAX_ITEMS)
        self.assertTrue(all(len(name) <= 100 for name in meta))
        self.assertLen(bounded({"a": list(range(10**5))})["a"], MAX_ITEMS)
        deep = {"x": 1}
        for _ in range(10**4):
            deep = {"d": deep, "y": 1}
        self.assertEqual(bounded(deep), {"y": 1, "d.y": 1, "d.d.y": 1, "d.d.d.y": 1})

    def test_what_is_kept_comes_back_from_a_record(self):
        meta = bounded({"a": "\ud800x", "b": [1, 2.5], "c": True, "d": {"e": ["x", "y"]}})
        record = schema.encode_example(b"jpeg", meta=meta)
        self.assertEqual(schema.decode_example(record)["meta"], meta)


if __name__ == "__main__":
    tf.test.main()
