"""Texts of other programs: their encodings, and bytes that are no text."""

import os
import tempfile
import unittest

from dc_tf.data.sources.encodings import check_encoding, decoded, lines, raise_if_undecodable
from dc_tf.errors import ConfigError, DataError


class TextFilesTest(unittest.TestCase):
    def lines(self, data, encoding=None):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a.txt")
            with open(path, "wb") as file:
                file.write(data)
            return list(lines(path, encoding))

    def test_bytes_that_are_no_text_stay_apart_and_name_their_place(self):
        (first, second) = self.lines(b"B\xe4r\nB\xf6r\n")
        self.assertNotEqual(first[1], second[1])
        self.assertEqual(os.fsencode(first[1]), b"B\xe4r\n")
        with self.assertRaisesRegex(DataError, "a.txt, line 2, column 2: the byte 0xf6 is not UTF"):
            raise_if_undecodable("a.txt", *second)
        with self.assertRaisesRegex(
            ValueError, "line 2, column 3: .* 0xff is not UTF-8.*--encoding"
        ):
            decoded(b"a\nbc\xff")

    def test_a_byte_order_mark_has_precedence(self):
        for encoding in ("utf-8-sig", "utf-16", "utf-32"):
            data = "Bär\n".encode(encoding)
            self.assertEqual(self.lines(data, "cp1252"), [(1, "Bär\n")])
            self.assertEqual(decoded(data, "cp1252"), "Bär\n")

    def test_an_unknown_encoding_is_refused(self):
        for name in ("utf-88", "hex", "rot13", "a\0b"):
            with self.assertRaisesRegex(ConfigError, "encoding is .*cp1252"):
                check_encoding(name)
        for name in (None, "cp1252", "latin-1", "gb18030", "utf-16-le", "shift_jis"):
            check_encoding(name)


if __name__ == "__main__":
    unittest.main()
