"""Why a file is no usable image: one sentence that helps, and one rule for damage."""

import io
import os
import re
import tempfile
import unittest

import numpy as np
from PIL import Image

from dc_tf.data.sources.image_files import Rules, clean

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
# Words of Pillow, of Python's errors, and of its types.
RAW = re.compile(r"Error|Exception|0x|Plugin|decoder error|broken data stream|cannot identify|\n")


def encoded(form, **settings):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, **settings)
    return file.getvalue()


def loads(data):
    """Whether Pillow decodes an image without an error."""
    try:
        Image.open(io.BytesIO(data)).load()
    except Exception:
        return False
    return True


class ReasonsTest(unittest.TestCase):
    def reason(self, data):
        reason = clean(data, Rules()).reason
        self.assertIsNotNone(reason)
        self.assertNotRegex(reason, RAW)
        return reason

    def test_files_of_other_kinds_are_named_with_what_helps(self):
        for data, expected in [
            (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC picture, which needs a plug|corrupt"),
            (b"\xff\x0a" + bytes(20), "JPEG XL picture, which needs a plug|corrupt"),
            (encoded("AVIF")[:200], "corrupt AVIF"),
            (b"\0\0\0\x18ftypmp42", "video; extract"),
            (b"\0\0\0\x18ftypcrx isom", "raw file of a camera"),
            (b"%PDF-1.7", "PDF document; export"),
            (b"PK\3\4...", "zip file; unpack"),
            (b"\x1f\x8b...", "gzip; unpack"),
            (b"Rar!...", "RAR archive"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b'<?xml version="1.0"?><svg>', "SVG"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\x93NUMPY\1\0", "NumPy array"),
            (b"GRIB" + bytes(3) + b"\1" + bytes(40), "GRIB file, which Pillow cannot decode"),
            (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5 file"),
            (bytes(100), "zero bytes"),
            (b"hello", "not an image"),
            (b"", "empty file; copy"),
        ]:
            self.assertRegex(self.reason(data), expected)

    def test_what_pillow_cannot_decode_whole_is_corrupt_in_every_format(self):
        for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"):
            data = encoded(form)
            self.assertIsNone(clean(data, Rules()).reason)
            for share in (0.5, 0.8):
                self.assertRegex(self.reason(data[: int(share * len(data))]), "corrupt", form)
        data = encoded("PNG")
        for end in range(1, 40):  # behind the last pixel as well as before it
            self.assertEqual(clean(data[:-end], Rules()).reason is None, loads(data[:-end]), end)
        wrong_checksum = bytearray(data)
        wrong_checksum[-13] ^= 1  # of the pixels
        wrong_checksum = bytes(wrong_checksum)
        self.assertEqual(clean(wrong_checksum, Rules()).reason is None, loads(wrong_checksum))

    def test_damage_outside_of_the_picture_is_ignored(self):
        exif = encoded("JPEG", exif=b"Exif\0\0garbage")
        self.assertIsNone(clean(exif, Rules()).reason)
        self.assertIsNone(clean(encoded("PNG") + b"behind", Rules()).reason)

    def test_files_that_cannot_be_read_say_what_to_look_at(self):
        with tempfile.TemporaryDirectory() as folder:
            os.symlink("loop", os.path.join(folder, "loop"))
            for name, expected in [
                ("missing", "no such file; check"),
                ("\udcff.png", "no such file; its name in the list is not UTF-8"),
                ("loop", "leads back to itself"),
                ("n" * 300, "longer than the file system allows"),
                ("", "not a regular file"),
            ]:
                self.assertRegex(self.reason(os.path.join(folder, name)), expected)


if __name__ == "__main__":
    unittest.main()
