"""CSV, TSV and JSONL lists: paths, labels, metadata, and what is wrong with a line."""

import json
import os

import pictures
import tensorflow as tf

from dc_tf.data.convert import convert
from dc_tf.data.sources.lists import open_list
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError


class ListsTest(tf.test.TestCase):
    def open(self, text, name="list.csv"):
        return open_list(pictures.write(self.get_temp_dir(), name, text), progress=False)

    def path(self, data):
        return pictures.write(self.get_temp_dir(), "list.csv", data)

    def items(self, text, name="list.csv"):
        return list(self.open(text, name).items())

    def jsonl(self, *entries):
        return "".join(json.dumps(entry) + "\n" for entry in entries)

    def test_a_csv_is_read_as_its_rules_are(self):
        items = self.items(
            "\ufeffpath,label,note,place\r\n"
            'a.jpg,cat,"one, ""two""\nthree",48.5\r\n'
            "/abs/b.jpg,dog,,-7\r\n"
            "\r\n"
            "gs://bucket/c.jpg,cat,x,1e3\r\n"
        )
        here = self.get_temp_dir()
        paths = [os.path.join(here, "a.jpg"), "/abs/b.jpg", "gs://bucket/c.jpg"]
        self.assertEqual([item.content for item in items], paths)
        self.assertEqual([item.label for item in items], [0, 1, 0])
        self.assertEqual(items[0].meta, {"note": 'one, "two" three', "place": 48.5})
        self.assertEqual(items[1].meta, {"place": -7.0})
        self.assertEqual(items[2].meta, {"note": "x", "place": 1000.0})

    def test_a_tsv_is_separated_by_tabs(self):
        (item,) = self.items("path\tcamera\na,b.jpg\tK1000\n", "list.tsv")
        self.assertEqual((item.name, item.meta), ("a,b.jpg", {"camera": "K1000"}))

    def test_columns_are_numbers_only_where_every_value_is_one(self):
        text = "path,year,height,user,mixed\na,1984,1.5,007,1\nb,,2,12,x\nc,1999,,1,2.5\n"
        metas = [item.meta for item in self.items(text)]
        self.assertEqual(metas[0], {"year": 1984, "height": 1.5, "user": "007", "mixed": "1"})
        self.assertEqual(metas[1], {"height": 2.0, "user": "12", "mixed": "x"})
        self.assertEqual(metas[2], {"year": 1999, "user": "1", "mixed": "2.5"})
        self.assertIsInstance(metas[1]["height"], float)

    def test_labels_are_numbers_or_names_in_alphabetical_order(self):
        for labels, numbers, names in [
            (["3", "0", "-1", "", "2.0"], [3, 0, None, None, 2], None),
            (["dog", "cat", "", "dog", "3"], [2, 1, None, 2, 0], ["3", "cat", "dog"]),
            (["01", "2", "1", "1", "1"], [0, 2, 1, 1, 1], ["01", "1", "2"]),
        ]:
            source = self.open("path,label\n" + "".join(f"x,{label}\n" for label in labels))
            self.assertEqual([item.label for item in source.items()], numbers)
            self.assertEqual(source.class_names, names)

    def test_labels_in_json_may_be_of_any_kind_but_one_at_a_time(self):
        entries = [{"path": "a", "label": value} for value in (2, 1.0, None, -1, [1, 2], 2**40)]
        items = self.items(self.jsonl(*entries), "l.jsonl")
        self.assertEqual([item.label for item in items], [2, 1, None, None, None, None])
        reasons = [item.reason for item in items]
        self.assertEqual(reasons[:4], [None] * 4)
        self.assertRegex(reasons[4], "is a list")
        self.assertRegex(reasons[5], "out of range")
        entries = [{"path": "a", "label": "x"}, {"path": "b", "label": 1}]
        source = self.open(self.jsonl(*entries), "m.jsonl")
        self.assertEqual(source.class_names, ["1", "x"])

    def test_json_keeps_lists_and_flattens_what_is_nested(self):
        entry = {
            "path": "a",
            "hashtag": ["sea", "sun"],
            "exif": {"iso": 100},
            "id": "12",
            "x": None,
        }
        (item,) = self.items(self.jsonl(entry), "l.jsonl")
        self.assertEqual(item.meta, {"hashtag": ["sea", "sun"], "exif.iso": 100, "id": "12"})

    def test_a_line_that_says_no_path_is_listed_and_the_rest_is_read(self):
        lines = ['{"path": "a"}', "nonsense", "[1]", '{"label": 1}', '{"path": 7}', "[" * 10**5]
        items = self.items("\n".join(lines), "l.jsonl")
        self.assertEqual([item.name for item in items][:2], ["a", "l.jsonl:2"])
        reasons = ["not JSON", "JSON list", "no path", "no path", "not JSON"]
        for item, reason in zip(items[1:], reasons, strict=True):
            self.assertRegex(item.reason, reason)
        reasons = [item.reason for item in self.items("path,x\na,1\nb\n,2\nc,3\n")]
        self.assertEqual(
            reasons, [None, "1 fields; the header has 2", "its line has no path; add one", None]
        )

    def test_what_makes_the_whole_list_doubtful_is_an_error_with_its_line(self):
        for text, error, message in [
            ("path;label;x;x\na;1;2;3\n", ConfigError, "more than one column 'x'"),
            ("file,label\na,1\n", ConfigError, "no column 'path'.*file, label"),
            ("", ConfigError, "no column 'path'"),
            ("path,x,x\n", ConfigError, "more than one column 'x'"),
            ('path\na\n"b\nc\n', DataError, "line 4: unexpected end"),
            ('path\n"a"b\n', DataError, "line 2"),
            ("path\n" + "x" * 200_000 + "\n", DataError, "line 2: field larger"),
        ]:
            with self.assertRaisesRegex(error, message):
                self.open(text)

    def test_names_that_are_not_utf8_find_their_files(self):
        name = b"\xff.png"
        with open(os.path.join(os.fsencode(self.get_temp_dir()), name), "wb") as file:
            file.write(pictures.encoded())
        (item,) = self.items(b"path,note\n" + name + b",x\n")
        self.assertTrue(os.path.exists(item.content))
        (item,) = open_list(self.path(b"path\n" + name), encoding="latin-1").items()
        self.assertTrue(os.path.exists(item.content))

    def test_text_that_is_not_utf8_names_line_and_column_and_merges_nothing(self):
        for data, name, place in [
            (b"path,label\na,x\nb,B\xe4r\nc,B\xf6r\n", "l.csv", "line 3, column 4.*0xe4"),
            (b"path,l\xe4bel\na,x\n", "l.csv", "line 1, column 7.*0xe4"),
            (b'path,note\na,"x\n\xfe"\n', "l.csv", "line 3, column 1.*0xfe"),
            (b'{"path": "a"}\n{"path": "b", "label": "B\xf6r"}\n', "l.jsonl", "line 2, column 26"),
            (b'{"path": \xff}\n', "l.jsonl", "line 1, column 10"),
            ("path\na\n".encode("utf-16-le"), "l.csv", "zero byte.*UTF-16"),
        ]:
            with self.assertRaisesRegex(DataError, place + ".*--encoding"):
                self.open(data, name)

    def test_an_encoding_is_named_or_stated_by_a_byte_order_mark(self):
        text = "path,label\na,Bär\nb,Bör\n"
        for data, encoding in [
            (text.encode("cp1252"), "cp1252"),
            (text.encode("utf-16"), None),
            (text.encode("utf-16"), "cp1252"),  # the mark is more certain
            (text.encode("utf-8-sig"), "latin-1"),
            (text.encode("utf-32"), None),
            (text.encode("utf-16-le"), "utf-16-le"),
        ]:
            source = open_list(self.path(data), progress=False, encoding=encoding)
            self.assertEqual(source.class_names, ["Bär", "Bör"])
            self.assertEqual([item.label for item in source.items()], [0, 1])
        with self.assertRaisesRegex(DataError, "0x81 is not cp1252"):
            open_list(self.path(b"path,label\na,\x81\n"), encoding="cp1252", progress=False)

    def test_labels_that_would_become_one_class_are_refused(self):
        for labels in (["a\0b", "a b"], ["x" * 100 + "1", "x" * 100 + "2"]):
            entries = [{"path": "p", "label": label} for label in labels]
            with self.assertRaisesRegex(ConfigError, "would become one class"):
                self.open(self.jsonl(*entries), "l.jsonl")
        source = self.open("path,label\na, cat\nb,cat \nc,  \n")
        self.assertEqual(source.class_names, ["cat"])
        self.assertEqual([item.label for item in source.items()], [0, 0, None])

    def test_other_separators_are_recognised_by_the_header(self):
        for separator in (";", "\t", "|"):
            text = "path,label,note\na b.jpg,cat,x\n".replace(",", separator)
            (item,) = self.items(text)
            self.assertEqual((item.name, item.meta), ("a b.jpg", {"note": "x"}))

    def test_a_text_file_lists_paths_and_perhaps_numbers(self):
        items = self.items("a 1.jpg 3\n\nb.jpg\t-1\r\nc.jpg 0\n", "list.txt")
        self.assertEqual([item.name for item in items], ["a 1.jpg", "b.jpg", "c.jpg"])
        self.assertEqual([item.label for item in items], [3, None, 0])
        items = self.items("a 1.jpg 3\nb.jpg\n", "list.txt")
        self.assertEqual([item.name for item in items], ["a 1.jpg 3", "b.jpg"])
        self.assertEqual(items[1].content, os.path.join(self.get_temp_dir(), "b.jpg"))

    def test_a_web_address_is_listed_and_a_missing_label_is_none(self):
        items = self.items('{"path": "https://x/a.jpg"}\n{"path": "b", "label": NaN}\n', "l.jsonl")
        self.assertRegex(items[0].reason, "web address; download")
        self.assertEqual((items[1].reason, items[1].label), (None, None))

    def test_going_on_behind_a_place_gives_the_rest(self):
        source = self.open("path,n\n" + "".join(f"{i},{i}\n" for i in range(7)))
        items = list(source.items())
        self.assertEqual(list(source.items(items[3].place)), items[4:])

    def test_another_content_is_another_source(self):
        before = self.open("path\na\n").identity
        self.assertNotEqual(self.open("path\nb\n").identity, before)

    def test_a_list_becomes_a_data_set_with_its_metadata(self):
        here = self.get_temp_dir()
        for number in range(3):
            pictures.write(here, f"images/{number}.png", pictures.encoded(number))
        path = pictures.write(
            here,
            "some.csv",
            "path,label,camera,latitude\nimages/2.png,b,K1000,1.5\nimages/9.png,a,,\nimages/0.png,,,2\n",
        )
        output = os.path.join(here, "out")
        result = convert(path, output, workers=1, progress=False)
        self.assertEqual((result["rows"], result["rejected"], result["classes"]), (2, 1, 2))
        first, second = pictures.examples(output)
        self.assertEqual(first["meta"], {"camera": "K1000", "latitude": 1.5})
        self.assertEqual((first["source"], first["label"]), ("images/2.png", 1))
        self.assertEqual(second["label"], None)
        self.assertEqual(Dataset.open(output).class_names, ("a", "b"))
        self.assertRegex(pictures.rejected(output)["images/9.png"], "no such file")


if __name__ == "__main__":
    tf.test.main()
