"""The frame of a TFRecord: checksums as TensorFlow writes them, and what damage looks like."""

import gzip
import os

import numpy as np
import pictures
import tensorflow as tf

from dc_tf.data.storage import tfrecord
from dc_tf.errors import DataError


class TfrecordTest(tf.test.TestCase):
    def write(self, records, options=None):
        path = os.path.join(self.get_temp_dir(), "a.tfrecord")
        with tf.io.TFRecordWriter(path, options) as writer:
            for record in records:
                writer.write(record)
        return path

    def corrupt(self, path, offset, data=b"\xff"):
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(data)
        return list(tfrecord.scan(path))

    def test_what_tensorflow_wrote_is_read_with_its_offsets(self):
        records = [np.random.default_rng(n).bytes(n * 100) for n in range(6)]
        path = self.write(records)
        scanned = list(tfrecord.scan(path))
        self.assertEqual([record for _, record, _ in scanned], records)
        with open(path, "rb") as file:
            content = file.read()
        for offset, record, fault in scanned:
            self.assertIsNone(fault)
            self.assertEqual(content[offset : offset + len(record)], record)
        self.assertEmpty(list(tfrecord.scan(self.write([]))))

    def test_a_framed_record_has_the_bytes_that_tensorflow_writes(self):
        records = [np.random.default_rng(n).bytes(n * 100) for n in range(6)]
        with open(self.write(records), "rb") as file:
            self.assertEqual(b"".join(map(tfrecord.frame, records)), file.read())

    def test_a_corrupt_payload_is_skipped_and_a_corrupt_header_hides_the_rest(self):
        records = [b"a" * 10, b"b" * 20, b"c" * 30, b"d" * 40]
        second = 12 + 10 + 4 + 12
        scanned = self.corrupt(self.write(records), second + 5)
        self.assertEqual(
            [record for _, record, _ in scanned], [b"a" * 10, None, b"c" * 30, b"d" * 40]
        )
        self.assertEqual(scanned[1][0], second)
        self.assertRegex(scanned[1][2], "checksum")
        scanned = self.corrupt(self.write(records), second - 12)
        self.assertEqual([record for _, record, _ in scanned], [b"a" * 10, None])
        self.assertRegex(scanned[1][2], "corrupt header")

    def test_a_file_that_is_cut_short_says_so_wherever_it_was_cut(self):
        for size in range(27, 26 + 12 + 20 + 4):
            path = self.write([b"a" * 10, b"b" * 20])
            os.truncate(path, size)
            first, second = tfrecord.scan(path)
            self.assertIsNone(first[2])
            self.assertEqual(second[:2], (26 + 12, None))
            self.assertRegex(second[2], "truncated")

    def test_compressed_files_and_others_are_refused(self):
        for kind in ("GZIP", "ZLIB"):
            path = self.write([b"abc" * 50], kind)
            with self.assertRaisesRegex(DataError, "is compressed.*uncompressed"):
                list(tfrecord.scan(path))
        for data in (gzip.compress(b"abc" * 50), pictures.encoded(), b"x"):
            path = pictures.write(self.get_temp_dir(), "other", data)
            with self.assertRaisesRegex(DataError, "compressed|not a TFRecord"):
                list(tfrecord.scan(path))


if __name__ == "__main__":
    tf.test.main()
