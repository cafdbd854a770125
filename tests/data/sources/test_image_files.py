"""One image file made clean: upright RGB, bounded, or a reason."""

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dc_tf.data.sources.image_files import Rules, clean, is_image


def scene(height=20, width=30):
    """Red above, blue below: it shows which way up it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0] = 255
    pixels[height // 2 :, :, 2] = 255
    return Image.fromarray(pixels)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


class CleanTest(tf.test.TestCase):
    def save(self, name, image, **settings):
        path = os.path.join(self.get_temp_dir(), name)
        image.save(path, **settings)
        return path

    def test_a_clean_file_is_passed_through_unchanged(self):
        for name in ("a.jpg", "a.png"):
            path = self.save(name, scene())
            with open(path, "rb") as file:
                self.assertEqual(clean(path, Rules()).encoded, file.read())

    def test_the_limit_of_pixels_of_the_process_stays(self):
        before = Image.MAX_IMAGE_PIXELS
        clean(self.save("a.png", scene()), Rules(max_pixels=700))
        found = clean(self.save("b.png", scene()), Rules(max_pixels=100))
        self.assertIn("pixels", found.reason)
        self.assertEqual(Image.MAX_IMAGE_PIXELS, before)

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
            data, reason, _ = clean(path, Rules())
            self.assertIsNone(reason)
            self.assertAllEqual(decoded(data), np.asarray(scene()))
            self.assertEqual(Image.open(io.BytesIO(data)).getexif().get(0x0112, 1), 1)

    def test_transparency_shows_white(self):
        image = scene().convert("RGBA")
        image.putalpha(0)
        for name in ("clear.png", "clear.webp"):
            data, _, _ = clean(self.save(name, image), Rules(format="png"))
            self.assertAllEqual(decoded(data), np.full((20, 30, 3), 255))

    def test_sixteen_bits_are_scaled_and_not_clipped(self):
        pixels = np.tile(np.linspace(0, 65535, 30).astype(np.uint16), (20, 1))
        data, _, _ = clean(self.save("deep.png", Image.fromarray(pixels)), Rules())
        self.assertAllClose(decoded(data)[:, :, 0], pixels / 257, atol=1)

    def test_every_mode_becomes_rgb(self):
        for mode, form in [("1", "PNG"), ("L", "JPEG"), ("P", "GIF"), ("CMYK", "JPEG")]:
            data, reason, _ = clean(
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
            data, _, _ = clean(path, Rules(format=form))
            self.assertEqual(Image.open(io.BytesIO(data)).format, wanted)

    def test_a_large_image_is_refused_by_its_header(self):
        path = self.save("large.png", Image.new("RGB", (300, 200)))
        for limit in (59_999, 100):
            data, reason, _ = clean(path, Rules(max_pixels=limit))
            self.assertIsNone(data)
            self.assertIn("max_pixels", reason)
        self.assertIsNone(clean(path, Rules(max_pixels=60_000)).reason)

    def test_formats_of_plug_ins_are_read_where_these_are_installed(self):
        for module, form in (("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")):
            with self.subTest(form):
                plug_in = pytest.importorskip(module)
                if form == "HEIF":
                    plug_in.register_heif_opener()
                path = self.save(f"a.{form.lower()}", scene(), format=form, quality=95)
                pixels = decoded(clean(path, Rules(format="png")).encoded)
                self.assertLess(np.abs(pixels - np.asarray(scene(), np.float32)).mean(), 10)
                self.assertTrue(is_image(path))

    def test_grey_images_are_downscaled_like_others(self):
        grey = scene(200, 300).convert("L")
        data = clean(self.save("grey.png", grey), Rules(max_short_side=64)).encoded
        expected = clean(
            self.save("rgb.png", grey.convert("RGB")), Rules(max_short_side=64)
        ).encoded
        self.assertAllEqual(decoded(data), decoded(expected))

    def test_a_downscaled_jpeg_is_close_to_a_full_decode(self):
        noise = np.random.default_rng(0).integers(0, 256, (30, 45, 3), np.uint8)
        photo = Image.fromarray(noise).resize((900, 600), Image.Resampling.BICUBIC)
        path = self.save("photo.jpg", photo, quality=95)
        exact = np.asarray(photo.resize((192, 128), Image.Resampling.LANCZOS), np.float32)
        data = clean(path, Rules(format="png", max_short_side=128)).encoded
        self.assertLess(np.sqrt(np.mean((decoded(data) - exact) ** 2)), 3)

    def test_bytes_are_as_good_as_a_file(self):
        path = self.save("a.webp", scene())
        with open(path, "rb") as file:
            self.assertEqual(clean(file.read(), Rules()), clean(path, Rules()))

    def test_a_digest_is_that_of_the_pixels_and_not_of_the_file(self):
        rules = Rules(format="png", digest=True)
        plain = clean(self.save("a.png", scene()), rules).digest
        self.assertLen(plain, 16)
        small = self.save("small.png", scene(), compress_level=0, dpi=(72, 72))
        turned = scene().transpose(Image.Transpose.ROTATE_180)
        for path, same in [
            (small, True),
            (self.save("a.bmp", scene()), True),
            (self.save("turned.png", turned), False),
            (self.save("high.png", scene(30, 20)), False),
        ]:
            self.assertEqual(clean(path, rules).digest == plain, same, path)

    def test_an_image_of_one_colour_is_blank_when_that_is_asked_for(self):
        path = self.save("red.jpg", Image.new("RGB", (30, 20), "red"))
        self.assertRegex(clean(path, Rules(drop_blank=True)).reason, r"blank.*\(254, 0, 0\)")
        self.assertIsNone(clean(path, Rules()).reason)
        self.assertIsNone(clean(self.save("a.png", scene()), Rules(drop_blank=True)).reason)
        clear = self.save("clear.png", Image.new("RGBA", (9, 9), (10, 20, 30, 0)))
        self.assertRegex(clean(clear, Rules(drop_blank=True)).reason, "255, 255, 255")


if __name__ == "__main__":
    tf.test.main()
