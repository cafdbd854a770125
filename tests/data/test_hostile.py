"""Files that are meant to do harm: bombs, headers that lie, names that lead elsewhere, code."""

import io
import json
import os
import struct
import tarfile
import tempfile
import tracemalloc
import zlib

import numpy as np
import pictures
import tensorflow as tf
from PIL import Image

from dc_tf import experiment
from dc_tf.data.convert import convert
from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.data.storage.manifest import MANIFEST, Dataset
from dc_tf.data.storage.metadata import bounded
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError, DataError


def png(width, height, data=b""):
    """Bytes of a PNG whose header says that size, whatever the data are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Harm:
    """What a pickle would run."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


class HostileTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

    def dataset(self):
        path = os.path.join(self.folder, "data")
        with DatasetWriter(path) as writer:
            for row in range(3):
                writer.write(pictures.encoded(row), source=str(row))
        return Dataset.open(path)

    def refused(self, data, rules=Rules()):  # noqa: B008
        """The reason why an image is refused, after it has taken little memory."""
        tracemalloc.start()
        try:
            encoded, reason, _ = clean(data, rules)
            self.assertLess(tracemalloc.get_traced_memory()[1], 100e6)
        finally:
            tracemalloc.stop()
        self.assertIsNone(encoded)
        return reason

    def test_an_image_that_unpacks_to_gigabytes_is_refused_by_its_header(self):
        bomb = zlib.compress(bytes(1 << 20)) * 10
        for size in [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)]:
            self.assertRegex(self.refused(png(*size, bomb)), "max_pixels|pixels")

    def test_a_png_with_a_text_that_unpacks_to_gigabytes_is_refused(self):
        file = io.BytesIO()
        Image.new("RGB", (4, 4)).save(file, "PNG")
        text = b"note\0\0" + zlib.compress(bytes(200 << 20), 9)
        chunk = struct.pack(">I", len(text)) + b"zTXt" + text
        chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
        data = file.getvalue()
        # Behind the header; the picture itself is fine, so it may also be kept without the text.
        tracemalloc.start()
        encoded, reason, _ = clean(data[:33] + chunk + data[33:], Rules(format="jpeg"))
        self.assertLess(tracemalloc.get_traced_memory()[1], 50e6)
        tracemalloc.stop()
        self.assertTrue(encoded or reason)

    def test_a_jpeg_without_its_end_is_never_kept_as_it_is(self):
        file = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(file, "JPEG")
        whole = file.getvalue()
        scan = whole[-200:-2]
        for data in (whole[:-2] + scan, whole[:-2] + scan[:-1] + b"\xff"):
            encoded, reason, _ = clean(data, Rules())
            self.assertNotEqual(encoded, data)
            if encoded is not None:  # written anew from what Pillow has read
                self.assertEqual(tf.io.decode_image(encoded).shape, (20, 24, 3), reason)
        self.assertEqual(clean(whole, Rules()).encoded, whole)
        self.assertEqual(clean(whole + b"behind", Rules()).encoded, whole + b"behind")

    def test_a_picture_of_many_frames_is_one_picture(self):
        frames = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(50)]
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
        encoded = clean(file.getvalue(), Rules(format="png")).encoded
        self.assertEqual(getattr(Image.open(io.BytesIO(encoded)), "n_frames", 1), 1)

    def test_a_name_in_a_tar_never_becomes_a_path(self):
        names = [
            "../../up.png",
            "/etc/abs.png",
            "a/../../b.png",
            "c:\\d.png",
            "e\0f.png",
            "-rf.png",
        ]
        names += ["\u202egpj.png", "\n\x1b[2J.png", "n" * 5000 + ".png"]
        path = os.path.join(self.folder, "a.tar")
        with tarfile.open(path, "w") as tar:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(pictures.encoded(number))
                tar.addfile(info, io.BytesIO(pictures.encoded(number)))
            link = tarfile.TarInfo("\x1b[2J\u202elink.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        output = os.path.join(self.folder, "below", "out")
        result = convert(path, output, workers=1, progress=False)
        self.assertEqual(result["rejected"], 1)
        self.assertEqual(result["rows"], len(names))
        self.assertCountEqual(os.listdir(self.folder), ["a.tar", "below"])
        self.assertEqual(os.listdir(os.path.join(self.folder, "below")), ["out"])
        for source in pictures.sources(output):
            self.assertLessEqual(len(source), 4096)
        with open(os.path.join(output, "rejected.jsonl"), "rb") as file:
            self.assertTrue(file.read().isascii())  # nothing that steers a terminal

    def test_metadata_is_bounded_in_depth_length_and_number(self):
        deep = {"a": 1}
        for _ in range(100):
            deep = {"a": deep}
        hostile = {"deep": deep, "long": "x" * 10**6, "\0\x1b[2J": "\u202e<script>", "big": 10**400}
        hostile |= {str(n): n for n in range(10_000)}
        kept = bounded(hostile)
        self.assertLessEqual(len(kept), 100)
        self.assertLessEqual(max(len(str(value)) for value in kept.values()), 1000)
        self.assertNotRegex("".join(map(str, [*kept, *kept.values()])), "[\x00-\x1f\u202e]")

    def test_yaml_makes_no_objects(self):
        made = os.path.join(self.folder, "made")
        for text in (
            f"!!python/object/apply:os.mkdir ['{made}']",
            f"data: !!python/object/apply:os.mkdir ['{made}']",
            "data: {path: !!python/name:os.system ''}",
            "stages: !!python/object:dc_tf.experiment.Stage {}",
        ):
            path = pictures.write(self.folder, "hostile.yaml", text)
            for files, overrides in [([path], []), ([], [text]), ([], [f"data.path={text}"])]:
                with self.assertRaises(ConfigError):
                    experiment.load(files, overrides)
        self.assertFalse(os.path.exists(made))

    def test_an_index_runs_no_pickle(self):
        dataset = self.dataset()
        made = os.path.join(self.folder, "made")
        objects = np.empty((3, 3), object)
        objects[0, 0] = Harm(made)
        np.save(dataset.index_path(0), objects, allow_pickle=True)
        with self.assertRaisesRegex(DataError, "cannot be read|is object"):
            Dataset.open(dataset.path).labels()
        self.assertFalse(os.path.exists(made))

    def test_an_index_whose_header_lies_about_its_size_takes_no_memory(self):
        dataset = self.dataset()
        header = "{'descr': '<i8', 'fortran_order': False, 'shape': (%d, 3), }"
        for rows in (3, 2**40, 10**30, -1):
            text = (header % rows).encode().ljust(117) + b"\n"
            with open(dataset.index_path(0), "wb") as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
            with self.assertRaisesRegex(DataError, "dc_tf index"):
                Dataset.open(dataset.path).labels()

    def test_an_index_that_leads_out_of_its_shard_is_corrupt(self):
        dataset = self.dataset()
        for entry in ((2**62, 8, 0), (-5, 8, 0), (12, 2**61, 0), (12, -1, 0)):
            np.save(dataset.index_path(0), np.tile(np.int64(entry), (3, 1)))
            with self.assertRaisesRegex(DataError, "index is corrupt"):
                RowReader(Dataset.open(dataset.path)).read([0])

    def test_a_manifest_names_no_files_above_its_folder(self):
        dataset = self.dataset()
        path = os.path.join(dataset.path, MANIFEST)
        with open(path) as file:
            manifest = json.load(file)
        for name in ("../other/shard", "a/../../b", "..", "", "a\0b", 7, None):
            shards = [{**manifest["shards"][0], "name": name}]
            with open(path, "w") as file:
                json.dump({**manifest, "shards": shards}, file)
            with self.assertRaisesRegex(DataError, "is corrupt"):
                Dataset.open(dataset.path)

    def test_a_manifest_that_is_nested_without_end_is_corrupt(self):
        path = os.path.join(self.dataset().path, MANIFEST)
        with open(path, "w") as file:
            file.write('{"a": ' + "[" * 200_000)
        with self.assertRaisesRegex(DataError, "is corrupt"):
            Dataset.open(os.path.dirname(path))


if __name__ == "__main__":
    tf.test.main()
