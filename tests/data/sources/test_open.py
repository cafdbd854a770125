"""What may be given as the input: kinds of files, patterns, and what is none of them."""

import io
import os
import tempfile
import unittest
import zipfile

import pictures

from dc_tf.data.convert import convert
from dc_tf.data.sources.open import open_source
from dc_tf.errors import ConfigError, DataError


class OpenTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()

    def write(self, name, data):
        return pictures.write(self.folder, name, data)

    def items(self, input, **settings):
        return list(open_source(input, progress=False, **settings).items())

    def test_a_single_image_is_a_data_set_of_one_row(self):
        path = self.write("a [1].png", pictures.encoded())
        output = os.path.join(self.folder, "out")
        self.assertEqual(convert(path, output, workers=1, progress=False)["rows"], 1)
        self.assertEqual(pictures.sources(output), ["a [1].png"])

    def test_a_pattern_of_images_is_in_the_order_of_their_paths(self):
        for name in ("b/1.png", "a/2.png", "a/1.png", "a/1.txt", "a/.x.png"):
            self.write(name, pictures.encoded())
        items = self.items(os.path.join(self.folder, "*", "*.png"))
        self.assertEqual([item.name for item in items], ["a/1.png", "a/2.png", "b/1.png"])
        source = open_source(os.path.join(self.folder, "*", "*"), progress=False)
        items = list(source.items())
        self.assertEqual(
            [item.name for item in items], ["a/1.png", "a/1.txt", "a/2.png", "b/1.png"]
        )
        self.assertEqual(list(source.items(items[1].place)), items[2:])

    def test_a_zip_is_read_as_the_folder_that_it_unpacks_to(self):
        names = ["b/2.png", "a/1.png", "c.png", "a.b/1.png", ".hidden", "a/x.txt"]
        path = os.path.join(self.folder, "a.zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.mkdir("a")
            for number, name in enumerate(names):
                file.writestr(name, pictures.encoded(number))
            file.writestr("c.png", b"again")
        with zipfile.ZipFile(path) as file:
            file.extractall(os.path.join(self.folder, "unpacked"))
        unpacked = self.items(os.path.join(self.folder, "unpacked"), labels_from_folders=True)
        source = open_source(path, labels_from_folders=True, progress=False)
        items = list(source.items())
        replaced = [item for item in items if item.name == "c.png"][0]
        self.assertRegex(replaced.reason, "later member")
        for item, other in zip([i for i in items if i is not replaced], unpacked, strict=True):
            self.assertEqual((item.name, item.label), (other.name, other.label))
            self.assertEqual(item.reason, other.reason)
            if other.content:
                with open(other.content, "rb") as file:
                    self.assertEqual(item.content, file.read())
        self.assertEqual(list(source.items(items[2].place)), items[3:])

    def test_members_of_a_zip_that_cannot_be_read_are_listed(self):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png", b"some content")
            archive.writestr("b.png", pictures.encoded())
            link = zipfile.ZipInfo("link.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        data = file.getvalue().replace(b"some content", b"some_content")  # another checksum
        items = self.items(self.write("a.zip", data))
        self.assertRegex(items[0].reason, "cannot be unpacked: .*copy the zip again")
        self.assertIsNone(items[1].reason)
        self.assertRegex(items[2].reason, "not a regular file")
        encrypted = bytearray(data)
        for signature, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            encrypted[encrypted.find(signature) + at] |= 1
        self.assertRegex(self.items(self.write("b.zip", bytes(encrypted)))[0].reason, "encrypted")
        with self.assertRaisesRegex(DataError, "not a whole zip"):
            self.items(self.write("c.zip", data[: len(data) // 2]))

    def test_any_letters_of_a_suffix_will_do(self):
        self.assertEqual(self.items(self.write("L.CSV", "path\na\n"))[0].name, "a")
        self.assertEqual(self.items(self.write("L.JSONL", '{"path": "a"}\n'))[0].name, "a")
        self.assertEqual(self.items(self.write("L.TXT", "a\n"))[0].name, "a")

    def test_other_files_are_refused_with_what_may_be_given(self):
        for name in ("a.xlsx", "b.avro", "c"):
            with self.assertRaisesRegex(ConfigError, "no known kind; give a folder, a list"):
                self.items(self.write(name, b"some other content"))
        with self.assertRaisesRegex(DataError, "PDF document; export its pages"):
            path = self.write("a.pdf", b"%PDF-1.7")
            convert(path, os.path.join(self.folder, "out"), workers=1, progress=False)
        with self.assertRaisesRegex(ConfigError, "does not exist.*give a folder"):
            self.items(os.path.join(self.folder, "missing"))
        with self.assertRaisesRegex(ConfigError, "does not exist: no file matches"):
            self.items(os.path.join(self.folder, "missing*"))


if __name__ == "__main__":
    unittest.main()
