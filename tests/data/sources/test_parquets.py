"""Images inside Parquet and Arrow tables: a row or a line for each; labels, metadata, resuming."""

import datetime
import itertools
import json
import os
import tempfile

import pictures
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from dc_tf.data.convert import convert
from dc_tf.data.sources.open import open_source
from dc_tf.data.sources.parquets import ParquetSource
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.errors import ConfigError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def structs(count, first=0):
    return [
        {"bytes": pictures.encoded(number), "path": f"{number:04d}.png"}
        for number in range(first, first + count)
    ]


class ParquetsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, columns, name="a.parquet", features=None, row_group_size=7):
        columns = {
            key: value if isinstance(value, pa.Array) else pa.array(value)
            for key, value in columns.items()
        }
        table = pa.table(columns)
        if features:
            about = {"info": {"features": features}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(table, self.path(name), row_group_size=row_group_size)
        return self.path(name)

    def convert(self, input, **settings):
        output = tempfile.mkdtemp(dir=self.folder)
        result = convert(input, os.path.join(output, "data"), workers=1, progress=False, **settings)
        with open(result["rejected_list"], encoding="utf-8") as file:
            rejected = [json.loads(line) for line in file]
        return Dataset.open(result["output"]), rejected

    def test_images_names_labels_and_metadata_of_a_hugging_face_data_set(self):
        features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
        day = datetime.date(2019, 10, 27)
        for number, first in enumerate((0, 10)):
            columns = {
                "image": pa.array(structs(10, first), IMAGE),
                "label": [1, 0] * 5,
                "camera": ["K1000"] * 10,
                "taken": [day] * 10,
                "tags": [["sea", "sun"]] * 10,
            }
            self.write(columns, f"train-{number:05d}-of-00002.parquet", features)
        dataset, rejected = self.convert(self.path("train-*.parquet"))
        self.assertEqual((dataset.rows, rejected), (20, []))
        self.assertEqual(dataset.class_names, ("cat", "dog"))
        rows = RowReader(dataset).examples(range(20))
        for number, row in enumerate(rows):
            self.assertEqual(row["encoded"], pictures.encoded(number))
            self.assertEqual((row["source"], row["label"]), (f"{number:04d}.png", 1 - number % 2))
            expected = {"camera": "K1000", "taken": "2019-10-27", "tags": ["sea", "sun"]}
            self.assertEqual(row["meta"], expected)

    def test_labels_in_a_column_of_another_name(self):
        columns = {
            "img": pa.array(structs(4), IMAGE),
            "fine_label": [2, 0, 1, 0],
            "coarse_label": [1, 0, 1, 0],
        }
        fine, coarse = {"names": ["ant", "bee", "cat"]}, {"names": ["insect", "mammal"]}
        path = self.write(columns, features={"fine_label": fine, "img": {"_type": "Image"}})
        with self.assertLogs(level="INFO") as logs:
            dataset, _ = self.convert(path)
        self.assertIn("labels are of the column fine_label", "".join(logs.output))
        self.assertEqual(dataset.class_names, ("ant", "bee", "cat"))
        self.assertAllEqual(dataset.labels(), [2, 0, 1, 0])
        path = self.write(columns, features={"fine_label": fine, "coarse_label": coarse})
        with self.assertRaisesRegex(ConfigError, "columns fine_label, coarse_label; .*_column"):
            open_source(path)
        dataset, _ = self.convert(path, label_column="coarse_label")
        self.assertEqual(dataset.class_names, ("insect", "mammal"))
        (row,) = RowReader(dataset).examples([0])
        self.assertEqual((row["label"], row["meta"]), (1, {"fine_label": 2}))
        dataset, _ = self.convert(path, label_column="")
        self.assertIsNone(dataset.class_names)
        with self.assertRaisesRegex(ConfigError, "no column kind for --label_column; .*img, fine"):
            open_source(path, label_column="kind")
        pictures.write(self.folder, "x.png", pictures.encoded(0))
        with self.assertRaisesRegex(ConfigError, "--label_column=a is for Parquet"):
            open_source(self.path("x.png"), label_column="a")

    def test_a_label_outside_the_stated_names_is_a_line_with_the_reason(self):
        columns = {"image": pa.array(structs(4), IMAGE), "label": [0, 2, 1, -1]}
        path = self.write(columns, features={"label": {"names": ["cat", "dog"]}})
        dataset, rejected = self.convert(path)
        self.assertAllEqual(dataset.labels(), [0, 1, -1])
        (line,) = rejected
        self.assertEqual(line["path"], "0001.png")
        self.assertIn("label 2 is outside the 2 class names", line["reason"])

    def test_bytes_alone_and_labels_that_are_names(self):
        images = [pictures.encoded(number) for number in range(3)]
        path = self.write({"jpg": images, "label": ["B\u00e4r", None, "Affe"]})
        dataset, _ = self.convert(path)
        self.assertEqual(dataset.class_names, ("Affe", "B\u00e4r"))
        rows = RowReader(dataset).examples(range(3))
        self.assertEqual([row["label"] for row in rows], [1, None, 0])
        self.assertEqual(rows[2]["source"], "a.parquet:2")

    def test_arrow_files_and_streams_are_tables_too(self):
        table = pa.table({"image": pa.array(structs(5), IMAGE)})
        for name, writer in (("a.arrow", pa.ipc.new_stream), ("b.feather", pa.ipc.new_file)):
            with pa.OSFile(self.path(name), "wb") as sink, writer(sink, table.schema) as file:
                file.write_table(table, max_chunksize=2)
            dataset, _ = self.convert(self.path(name))
            self.assertEqual(dataset.rows, 5)

    def test_every_row_that_has_no_image_is_a_line_with_the_reason(self):
        pictures.write(self.folder, "beside.png", pictures.encoded(9))
        images = [
            *structs(1),
            {"bytes": None, "path": "gone.png"},
            {"bytes": b"GRIB", "path": "weather.grib"},
            None,
            {"bytes": None, "path": "beside.png"},
        ]
        path = self.write({"image": pa.array(images, IMAGE), "label": [0, 1, 2, 3, -5]})
        dataset, rejected = self.convert(path)
        self.assertEqual(dataset.rows, 1)
        reasons = {line["path"]: line["reason"] for line in rejected}
        self.assertEqual(reasons["gone.png"], "row 1 of a.parquet has no bytes of an image")
        self.assertEqual(reasons["a.parquet:3"], "row 3 of a.parquet has no bytes of an image")
        self.assertIn("weather.grib", reasons)
        self.assertIn("label -5 is out of range", reasons["beside.png"])
        path = self.write({"image": pa.array(images[4:], IMAGE)}, "c.parquet")
        dataset, _ = self.convert(path)
        self.assertEqual(dataset.rows, 1)  # the file beside the table

    def test_the_column_has_to_be_clear(self):
        two = self.write({"a": [b"x"], "b": [b"y"], "n": [1]})
        with self.assertRaisesRegex(ConfigError, "bytes in the columns a, b; .* --image_column"):
            open_source(two)
        with self.assertRaisesRegex(ConfigError, "no images in a column n; .* a, b"):
            open_source(two, image_column="n")
        none = self.write({"n": [1], "name": ["x"]}, "none.parquet")
        with self.assertRaisesRegex(ConfigError, "no column with bytes, .* are n, name"):
            open_source(none)
        pictures.write(self.folder, "x.png", pictures.encoded(0))
        with self.assertRaisesRegex(ConfigError, "--image_column=a is for Parquet"):
            open_source(self.folder, image_column="a")
        images = pictures.encoded(0)
        self.write({"image": [images], "label": ["a"]}, "d1.parquet")
        self.write({"picture": [images], "label": ["a"]}, "d2.parquet")
        with self.assertRaisesRegex(ConfigError, "d2.parquet has other columns or classes"):
            open_source(self.path("d*.parquet"))

    def test_items_resume_after_any_of_them(self):
        for number, first in enumerate((0, 10)):
            self.write({"image": pa.array(structs(10, first), IMAGE)}, f"{number}.parquet")
        source = open_source(self.path("*.parquet"))
        self.assertEqual(source.total, 20)
        items = list(source.items())
        for number, item in enumerate(items):
            place = json.loads(json.dumps(item.place))
            rest = [(other.name, other.place) for other in source.items(place)]
            self.assertEqual(rest, [(other.name, other.place) for other in items[number + 1 :]])

    def test_rows_after_a_corrupt_part_are_one_line_and_other_tables_are_read(self):
        paths = [
            self.write({"image": pa.array(structs(20, first), IMAGE)}, f"{first}.parquet")
            for first in (0, 20)
        ]
        start = pq.ParquetFile(paths[0]).metadata.row_group(1).column(0).data_page_offset
        with open(paths[0], "r+b") as file:
            file.seek(start)
            file.write(b"\xff" * 200)
        items = list(ParquetSource(paths).items())
        bad = [item for item in items if item.reason]
        self.assertLen(bad, 1)
        self.assertEqual(bad[0].name, "0.parquet:7")
        self.assertIn("no row from here on can be read", bad[0].reason)
        names = [item.name for item in items if not item.reason]
        expected = itertools.chain(range(7), range(20, 40))
        self.assertEqual(names, [f"{number:04d}.png" for number in expected])


if __name__ == "__main__":
    tf.test.main()
