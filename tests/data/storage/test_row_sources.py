"""Names of rows: those of the decoded records, without reading the images."""

import io
import json
import os
import random
import shutil
import tempfile
import unittest
from unittest import mock

import pictures

from dc_tf.data.storage import schema
from dc_tf.data.storage.index_tfrecords import index_tfrecords
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.partial_record import without_feature
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.row_sources import sources_of, write_sources
from dc_tf.data.storage.schema import Features
from dc_tf.data.storage.tfrecord import frame
from dc_tf.data.storage.view import write_view
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import DataError

NAMES = ["dogs/rex.jpg", "", 'a "b",\n.png', "hündin/\u2603.jpg", "x" * 5000]
META = {"user": "me", "note": "n" * 3000, "latitude": 1.5}


def written(path, sizes=(0, 3, 900, 70_000, 2_000_000)):
    """A data set with images of these sizes, which need not be images."""
    with DatasetWriter(path, ["a"], rows_per_shard=2) as writer:
        for name, size in zip(NAMES, sizes, strict=True):
            writer.write(b"\xff\x0a" * (size // 2) or b"x", 0, name, META)
    return Dataset.open(path)


def without(record, name):
    return without_feature(lambda at, count: record[at : at + count], len(record), name)


class SourcesTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def test_they_are_those_of_the_decoded_records_in_any_order(self):
        dataset = written(self.path("data"))
        self.assertEqual(pictures.sources(dataset.path), NAMES)
        self.assertEqual(sources_of(dataset, range(5)), NAMES)
        self.assertEqual(sources_of(dataset, [4, 1, 4]), [NAMES[4], NAMES[1], NAMES[4]])
        self.assertEqual(sources_of(dataset, []), [])
        view = write_view(dataset, [3, 0], self.path("view"))
        self.assertEqual(sources_of(view, [0, 1]), [NAMES[3], NAMES[0]])
        with self.assertRaisesRegex(DataError, "row 5 is not in"):
            sources_of(dataset, [5])

    def test_images_are_not_read(self):
        dataset = written(self.path("data"))
        reader, counts = RowReader(dataset), []
        read = reader._files.read

        def counted(shard, start, count):
            counts.append(count)
            return read(shard, start, count)

        with mock.patch.object(reader._files, "read", counted):
            self.assertEqual(reader.sources([4]), [NAMES[4]])
        self.assertLess(sum(counts), 12_000)  # of 2 MB; name and metadata alone have 8 kB

    def test_a_data_set_behind_gfile_has_the_same(self):
        self.assertEqual(sources_of(written("ram://row_sources/data"), range(5)), NAMES)

    def test_corrupt_records_have_none_and_corrupt_images_their_names(self):
        dataset = written(self.path("data"))
        shard, (offset, length, _) = dataset.shard_path(1), dataset.index(1)[1]
        with open(shard, "r+b") as file:
            file.seek(offset + length // 2)
            file.write(b"?")
        self.assertEqual(sources_of(dataset, [3]), [NAMES[3]])
        with open(shard, "r+b") as file:
            file.seek(offset - 12)
            file.write(b"?")
        self.assertEqual(sources_of(Dataset.open(dataset.path), [2, 3]), [NAMES[2], None])
        os.truncate(shard, offset + 3)
        self.assertEqual(sources_of(Dataset.open(dataset.path), [3, 4]), [None, NAMES[4]])
        os.remove(shard)
        with self.assertRaisesRegex(DataError, "shard-00001.* cannot be read"):
            sources_of(Dataset.open(dataset.path), [3])

    def test_records_of_other_programs_have_other_names_and_orders(self):
        record = schema.encode_example(pictures.encoded(), source="cat.png")
        record = record.replace(b"image/encoded", b"image/content")  # as many bytes
        odd = b"\x12\x01z" + record  # a field that Example does not have, before its features
        with open(self.path("x.tfrecord"), "wb") as file:
            file.write(frame(record) + frame(odd))
        index_tfrecords(self.path("x.tfrecord"), self.path("data"), Features(image="image/content"))
        self.assertEqual(sources_of(Dataset.open(self.path("data")), [1, 0]), ["cat.png"] * 2)

    def test_a_line_names_the_row_and_its_file(self):
        file = io.BytesIO()
        write_sources(file, written(self.path("data")), [3, 2])
        lines = list(map(json.loads, file.getvalue().decode().splitlines()))
        self.assertEqual(lines, [{"row": row, "source": NAMES[row]} for row in (3, 2)])


class PartialRecordTest(unittest.TestCase):
    def test_all_but_one_feature_stay_in_their_order(self):
        record = schema.encode_example(b"i" * 9000, 3, "cat.png", META)
        small = without(record, "image/encoded")
        names = schema.feature_names(record)
        self.assertEqual(schema.feature_names(small), [n for n in names if n != "image/encoded"])
        self.assertEqual(without(small, "image/encoded"), small)

    def test_corrupt_bytes_are_a_value_error_and_end(self):
        record = schema.encode_example(b"i" * 300, 3, "cat.png", META)
        draw, refused = random.Random(0), 0
        for _ in range(2000):
            changed = bytearray(record[: draw.choice([len(record), draw.randrange(len(record))])])
            for _ in range(draw.randrange(1, 4)):
                if changed:
                    changed[draw.randrange(min(400, len(changed)))] = draw.randrange(256)
            try:
                without(bytes(changed), "x")
            except ValueError:
                refused += 1
        self.assertGreater(refused, 500)


if __name__ == "__main__":
    unittest.main()
