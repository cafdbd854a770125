"""Pixels of more than 8 bits: which values become black and white."""

import io
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image, TiffImagePlugin

from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.data.sources.png_chunks import without_large_texts

SHAPE = 20, 30


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(values, significant=None, extra=b""):
    """Bytes of a 16-bit PNG of (height, width, channels) values; `extra` chunks before the data."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    bits = chunk(b"sBIT", bytes([significant] * channels)) if significant else b""
    data = chunk(b"IHDR", head) + bits + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def tiff(values, **tags):
    file, info = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    Image.fromarray(values).save(file, "TIFF", tiffinfo=info)
    return file.getvalue()


def jpeg2000(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG2000")
    return file.getvalue()


def portable(values, most):
    """Bytes of a grey image in the PGM format, which states the largest value."""
    height, width, _ = values.shape
    return f"P5 {width} {height} {most}\n".encode() + values.astype(">u2").tobytes()


def ramp(most, channels=1):
    """(height, width, channels) uint16, from 0 to `most`."""
    column = np.linspace(0, most, SHAPE[1]).round().astype(np.uint16)
    return np.broadcast_to(column[None, :, None], (*SHAPE, channels)).copy()


WHITE_RAMP = np.linspace(0, 255, SHAPE[1])


class PixelsTest(tf.test.TestCase):
    def row(self, data, **rules):
        """(width, 3) of the first row of a converted image."""
        encoded, reason, _ = clean(data, Rules(format="png", **rules))
        self.assertIsNone(reason)
        return np.asarray(Image.open(io.BytesIO(encoded)))[0].astype(float)

    def reason(self, data, **rules):
        return clean(data, Rules(**rules)).reason

    def check_ramp(self, data, **rules):
        difference = np.abs(self.row(data, **rules) - WHITE_RAMP[:, None])
        self.assertLess(difference.max(), 1.5)

    def test_few_bits_in_sixteen_are_as_bright_as_they_were(self):
        for bits in (8, 10, 12, 14, 16):
            most = (1 << bits) - 1
            for channels in (1, 2, 3, 4):
                values = ramp(most, channels)
                if channels in (2, 4):
                    values[..., -1] = most
                self.check_ramp(png(values))
            self.check_ramp(tiff(ramp(most)[..., 0]))
            self.check_ramp(jpeg2000(ramp(most)[..., 0]))
            if bits > 8:
                self.check_ramp(portable(ramp(most), most))
            self.check_ramp(tiff(ramp(most)[..., 0].astype(np.int32)))

    def test_a_dark_picture_of_a_stated_range_stays_dark(self):
        dark = ramp(1000)
        stated = tiff(dark[..., 0], _281=65535)
        for row in (self.row(stated), self.row(png(dark), value_range=(0, 65535))):
            self.assertAllClose(row[-1], [1000 / 257] * 3, atol=1)
        self.assertAllClose(self.row(png(dark, 12))[-1], [1000 / 4095 * 255] * 3, atol=1)
        self.check_ramp(png(ramp(65535), 12))  # as the standard wants it: already scaled
        rgb = self.row(png(ramp(1000, 3)), value_range=(0, 4095))
        self.assertAllClose(rgb[-1], [1000 / 4095 * 255] * 3, atol=1)

    def test_sixteen_bits_of_tiff_and_of_colours_keep_their_low_bits(self):
        for values in (ramp(4095, 3), ramp(1023, 3)):
            data = png(values)
            with Image.open(io.BytesIO(data)) as image:
                self.assertLess(np.asarray(image).max(), 16)  # what Pillow would give
            self.check_ramp(data)

    def test_a_tiff_whose_lowest_value_is_white_is_inverted(self):
        entry = struct.pack("<HHLHH", 262, 3, 1, 1, 0)  # black is zero
        data = tiff(ramp(4095)[:, ::-1, 0].copy())
        self.assertEqual(data.count(entry), 1)
        self.check_ramp(data.replace(entry, struct.pack("<HHLHH", 262, 3, 1, 0, 0)))

    def test_floats_are_from_0_to_1_or_their_range_is_named(self):
        values = ramp(1000)[..., 0].astype(np.float32)
        self.check_ramp(tiff(values / 1000))
        self.check_ramp(tiff(values, _340=0.0, _341=1000.0))
        self.check_ramp(tiff(values - 500), value_range=(-500, 500))
        self.assertRegex(
            self.reason(tiff(values)), r"floating-point.*0\.\.1000.*--value_range=0,1000"
        )
        holes = values / 1000
        holes[0, 0] = np.nan
        self.check_ramp(tiff(holes))
        self.assertRegex(self.reason(tiff(np.full(SHAPE, np.nan, np.float32))), "finite")

    def test_integers_of_32_bits_need_a_range_unless_they_fit_into_16(self):
        values = ramp(1000)[..., 0].astype(np.int32) - 500
        self.assertRegex(self.reason(tiff(values)), r"32-bit.*-500\.\.500.*--value_range=-500,500")
        self.check_ramp(tiff(values), value_range=(-500, 500))
        self.check_ramp(tiff(200 * (values + 500)), value_range=(0, 200_000))

    def test_pictures_of_8_bits_have_no_other_range(self):
        file = io.BytesIO()
        Image.fromarray(ramp(200, 3).astype(np.uint8)).save(file, "PNG")
        self.assertAllEqual(self.row(file.getvalue(), value_range=(0, 4095))[-1], [200] * 3)


class ChunksTest(tf.test.TestCase):
    def plain(self, extra=b""):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(
            file, "PNG"
        )
        data = file.getvalue()
        return data[:33] + extra + data[33:]

    def test_large_profiles_and_texts_are_left_out_and_the_picture_kept(self):
        noise = np.random.default_rng(0).bytes(3 << 20)
        for name, body in [
            (b"iCCP", b"profile\0\0" + zlib.compress(noise)),
            (b"iCCP", b"profile\0\0" + zlib.compress(bytes(100 << 20), 9)),
            (b"zTXt", b"note\0\0" + zlib.compress(noise)),
            (b"iTXt", b"note\0\1\0de\0Notiz\0" + zlib.compress(noise)),
            (b"iTXt", b"note\0\0\0\0\0" + noise),
            (b"tEXt", b"note\0" + noise),
        ]:
            encoded, reason, _ = clean(self.plain(chunk(name, body)), Rules())
            self.assertIsNone(reason)
            self.assertEqual(encoded, self.plain())
        many = b"".join(chunk(b"tEXt", b"n%d\0" % n + noise[: 1 << 19]) for n in range(200))
        self.assertIsNone(clean(self.plain(many), Rules()).reason)

    def test_small_ones_stay_and_other_data_are_not_touched(self):
        text = chunk(b"zTXt", b"note\0\0" + zlib.compress(b"text"))
        for data in (self.plain(text), b"", b"\x89PNG\r\n\x1a\n", self.plain()[:50], b"\xff\xd8"):
            self.assertEqual(without_large_texts(data), data)


if __name__ == "__main__":
    tf.test.main()
