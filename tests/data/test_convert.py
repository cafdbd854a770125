"""From a folder of files to a data set: what is converted, what is listed, and in which order."""

import importlib
import io
import json
import os
import sys
import zipfile
from unittest import mock

import numpy as np
import tensorflow as tf
from PIL import Image

from dc_tf.data import image_files, schema
from dc_tf.data.convert import convert
from dc_tf.data.image_files import Rules, clean
from dc_tf.data.manifest import Dataset
from dc_tf.data.pipeline import evaluation_batches
from dc_tf.data.reader import RowReader
from dc_tf.errors import ConfigError, DataError

SHARED = os.environ.get(
    "DC_TF_SHARED_DATA",
    os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data"),
)


CRASHING = """
import os, signal
from dc_tf.data import image_files

def clean_all(paths, rules):
    if any(path.endswith("17.png") for path in paths):
        os.kill(os.getpid(), signal.SIGKILL)
    return [image_files.clean(path, rules) for path in paths]
"""


def scene(height=20, width=30):
    """Red above, blue below: it shows which way up it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0] = 255
    pixels[height // 2 :, :, 2] = 255
    return Image.fromarray(pixels)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


class Folder(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.input = os.path.join(self.get_temp_dir(), "in")
        self.output = os.path.join(self.get_temp_dir(), "out")
        os.makedirs(self.input)

    def save(self, name, image, **settings):
        path = os.path.join(self.input, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        image.save(path, **settings)
        return path

    def write(self, name, data):
        path = os.path.join(self.input, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path


class CleanTest(Folder):
    def test_a_clean_file_is_passed_through_unchanged(self):
        for name in ("a.jpg", "a.png"):
            path = self.save(name, scene())
            with open(path, "rb") as file:
                self.assertEqual(clean(path, Rules())[0], file.read())

    def test_every_exif_orientation_ends_upright(self):
        turned = {  # what a camera held that way stores, so that the viewer sees the scene
            1: lambda image: image,
            2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
            4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
            5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
            6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
            7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
            8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
        }
        for orientation, turn in turned.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = self.save("turned.png", turn(scene()), exif=exif)
            data, reason = clean(path, Rules())
            self.assertIsNone(reason)
            self.assertAllEqual(decoded(data), np.asarray(scene()))
            self.assertEqual(Image.open(io.BytesIO(data)).getexif().get(0x0112, 1), 1)

    def test_transparency_shows_white(self):
        image = scene().convert("RGBA")
        image.putalpha(0)
        for name in ("clear.png", "clear.webp"):
            data, _ = clean(self.save(name, image), Rules(format="png"))
            self.assertAllEqual(decoded(data), np.full((20, 30, 3), 255))

    def test_sixteen_bits_are_scaled_and_not_clipped(self):
        pixels = np.tile(np.linspace(0, 65535, 30).astype(np.uint16), (20, 1))
        data, _ = clean(self.save("deep.png", Image.fromarray(pixels)), Rules())
        self.assertAllClose(decoded(data)[:, :, 0], pixels / 257, atol=1)

    def test_every_mode_becomes_rgb(self):
        for mode, form in [("1", "PNG"), ("L", "JPEG"), ("P", "GIF"), ("CMYK", "JPEG")]:
            data, reason = clean(
                self.save(f"{mode}.x", scene().convert(mode), format=form), Rules()
            )
            self.assertIsNone(reason)
            self.assertEqual(Image.open(io.BytesIO(data)).mode, "RGB")

    def test_the_short_side_is_bounded_and_never_enlarged(self):
        for name in ("big.jpg", "big.png"):
            path = self.save(name, scene(200, 300))
            self.assertEqual(decoded(clean(path, Rules(max_short_side=64))[0]).shape, (64, 96, 3))
            self.assertEqual(
                decoded(clean(path, Rules(max_short_side=999))[0]).shape, (200, 300, 3)
            )

    def test_the_format_can_be_chosen(self):
        path = self.save("a.png", scene())
        for form, wanted in [("keep", "PNG"), ("jpeg", "JPEG"), ("png", "PNG")]:
            data, _ = clean(path, Rules(format=form))
            self.assertEqual(Image.open(io.BytesIO(data)).format, wanted)

    def test_a_large_image_is_refused_by_its_header(self):
        path = self.save("large.png", Image.new("RGB", (300, 200)))
        for limit in (59_999, 100):
            data, reason = clean(path, Rules(max_pixels=limit))
            self.assertIsNone(data)
            self.assertIn("max_pixels", reason)
        self.assertIsNone(clean(path, Rules(max_pixels=60_000))[1])


class ConvertTest(Folder):
    def rejected(self):
        with open(os.path.join(self.output, "rejected.jsonl")) as file:
            return {line["path"]: line["reason"] for line in map(json.loads, file)}

    def sources(self):
        dataset = Dataset.open(self.output)
        records = RowReader(dataset).read(range(dataset.rows))
        return [schema.decode_example(record)["source"] for record in records]

    def test_rows_are_in_the_order_of_their_paths_with_labels_from_folders(self):
        for number in range(40):
            self.save(f"{'dog' if number % 3 else 'cat'}/{number:02d}.png", scene())
        self.save("loose.jpg", scene())
        outcomes = []
        for workers in (1, 3):
            result = convert(
                self.input, self.output, labels_from_folders=True, rows_per_shard=16,
                workers=workers, overwrite=True, progress=False,
            )  # fmt: skip
            dataset = Dataset.open(self.output)
            outcomes.append((self.sources(), dataset.labels().tolist(), dataset.shards))
        self.assertEqual((result["rows"], result["rejected"], result["classes"]), (41, 0, 2))
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(self.rejected(), {})
        sources, labels, _ = outcomes[0]
        self.assertEqual(sources, sorted(sources))
        expected = [{"cat": 0, "dog": 1}.get(source.split("/")[0], -1) for source in sources]
        self.assertEqual(labels, expected)
        self.assertEqual(dataset.class_names, ("cat", "dog"))

    def test_every_file_is_a_row_or_listed_with_a_reason(self):
        self.save("good.png", scene())
        self.write("text.jpg", b"<html>")
        self.write("empty.jpg", b"")
        self.write(".hidden.png", b"")
        self.write("__MACOSX/._good.png", b"")
        os.symlink("nowhere", os.path.join(self.input, "link.png"))
        os.mkfifo(os.path.join(self.input, "pipe.png"))
        os.symlink("..", os.path.join(self.input, "loop"))
        self.addCleanup(os.remove, os.path.join(self.input, "loop"))
        result = convert(self.input, self.output, workers=1, progress=False)
        self.assertEqual(self.sources(), ["good.png"])
        self.assertEqual(result["rejected"], 6)
        reasons = self.rejected()
        self.assertEqual(reasons["empty.jpg"], "empty file")
        self.assertEqual(reasons[".hidden.png"], "hidden file")
        self.assertIn("not an image", reasons["text.jpg"])
        self.assertIn("regular", reasons["pipe.png"])
        self.assertIn("FileNotFound", reasons["link.png"])
        self.assertIn("__MACOSX/._good.png", reasons)

    def replace_decoder(self, code):
        """Lets the pool's processes run `code`, from a module that they can import quickly."""
        folder = os.path.join(self.get_temp_dir(), "modules")
        self.write("../modules/crashing.py", code.encode())
        sys.path.insert(0, folder)
        self.addCleanup(sys.path.remove, folder)
        replacement = importlib.import_module("crashing").clean_all
        patch = mock.patch.object(image_files, "clean_all", replacement)
        patch.start()
        self.addCleanup(patch.stop)

    def test_a_file_that_kills_the_decoder_is_listed_and_the_rest_goes_on(self):
        for number in range(40):
            self.save(f"{number:02d}.png", scene())
        self.replace_decoder(CRASHING)
        convert(self.input, self.output, workers=2, progress=False)
        self.assertEqual(list(self.rejected()), ["17.png"])
        self.assertIn("crashed", self.rejected()["17.png"])
        self.assertEqual(self.sources(), [f"{n:02d}.png" for n in range(40) if n != 17])

    def test_nothing_usable_is_an_error_with_a_reason(self):
        with self.assertRaisesRegex(DataError, "holds no files"):
            convert(self.input, self.output, progress=False)
        self.write("text.jpg", b"hello")
        with self.assertRaisesRegex(DataError, "text.jpg: not an image"):
            convert(self.input, self.output, workers=1, progress=False, overwrite=True)

    def test_what_cannot_work_is_refused_before_anything_is_written(self):
        self.save("a.png", scene())
        for settings, message in [
            (dict(format="gif"), "format is 'gif'"),
            (dict(max_short_side=0), "short_side is 0"),
            (dict(labels_from_folders=True), "no sub-folders"),
            (dict(quality=0), "quality is 0"),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                convert(self.input, self.output, progress=False, **settings)
        with self.assertRaisesRegex(ConfigError, "not a folder"):
            convert(self.input + "x", self.output, progress=False)
        with self.assertRaisesRegex(ConfigError, "both"):
            convert(self.input, self.input, overwrite=True, progress=False)
        self.assertFalse(os.path.exists(self.output))
        self.write("../out/note.txt", b"mine")
        with self.assertRaisesRegex(ConfigError, "not empty"):
            convert(self.input, self.output, progress=False)

    def test_the_nasty_collection_goes_through(self):
        archive = os.path.join(SHARED, "nasty.zip")
        if not os.path.exists(archive):
            self.skipTest("the shared images are not here")
        with zipfile.ZipFile(archive) as file:
            file.extractall(self.input)
        files = [os.path.join(p, n) for p, _, names in os.walk(self.input) for n in names]
        result = convert(self.input, self.output, progress=False, max_short_side=128)
        self.assertEqual(result["rows"] + result["rejected"], len(files))
        listed = {os.path.relpath(path, self.input) for path in files}
        self.assertEqual(set(self.sources()) | set(self.rejected()), listed)
        self.assertGreaterEqual(result["rows"], 60)
        reader = RowReader(Dataset.open(self.output))
        for batch in evaluation_batches(reader, np.arange(result["rows"]), 16, 32, 32):
            self.assertAllInRange(batch["image"], 0.0, 1.0)


if __name__ == "__main__":
    tf.test.main()
