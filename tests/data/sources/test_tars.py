"""Tar files: web data sets, any other tar, and tars that lie."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile

import pictures
import tensorflow as tf

from dc_tf.data.convert import convert
from dc_tf.data.sources import tars
from dc_tf.data.sources.open import open_source
from dc_tf.data.sources.tars import TarSource, is_tar

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def make_tar(members, form=tarfile.PAX_FORMAT):
    """Bytes of a tar with (name, bytes or dict of TarInfo attributes) as its members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            for attribute, value in ({} if isinstance(content, bytes) else content).items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def web_members(count, first=0):
    for number in range(first, first + count):
        yield f"d/{number:04d}.png", pictures.encoded(number)
        yield f"d/{number:04d}.json", json.dumps({"n": number, "label": number}).encode()


class TarsTest(tf.test.TestCase):
    def write(self, data, name="a.tar"):
        return pictures.write(self.get_temp_dir(), name, data)

    def items(self, members, name="a.tar", **settings):
        return list(TarSource([self.write(make_tar(members, **settings), name)]).items())

    def test_members_of_one_name_are_one_image_with_its_metadata(self):
        items = self.items(
            [
                ("d", {"type": tarfile.DIRTYPE}),
                ("d/1.jpg", b"one"),
                ("d/1.json", b'{"camera": "K1000", "exif": {"iso": 100}}'),
                ("d/1.cls", b"7\n"),
                ("d/1.txt", "a caf\u00e9\0".encode()),
                ("d/2.txt", b"before its image"),
                ("d/2.PNG", b"two"),
                ("3.json", b'{"label": 4, "x": 1}'),
                ("3.webp", b"three"),
            ]
        )
        self.assertEqual([item.name for item in items], ["d/1.jpg", "d/2.PNG", "3.webp"])
        self.assertEqual([item.content for item in items], [b"one", b"two", b"three"])
        self.assertEqual([item.label for item in items], [7, None, 4])
        expected = {"camera": "K1000", "exif.iso": 100, "txt": "a caf\u00e9"}
        self.assertEqual(items[0].meta, expected)
        self.assertEqual(items[1].meta, {"txt": "before its image"})
        self.assertEqual(items[2].meta, {"x": 1})

    def test_going_on_behind_any_place_gives_the_rest(self):
        # Several images of one name, folders in between, and two files.
        members = list(web_members(3)) + [("d", {"type": tarfile.DIRTYPE}), ("x.a.png", b"1")]
        members += [("x.b.png", b"2"), ("x.c.png", b"3"), ("x.txt", b"t"), ("y.png", b"4")]
        paths = [self.write(make_tar(members)), self.write(make_tar(web_members(2)), "b.tar")]
        items = list(TarSource(paths).items())
        self.assertLen(items, 9)
        for number, item in enumerate(items):
            place = json.loads(json.dumps(item.place))
            self.assertEqual(list(TarSource(paths).items(place)), items[number + 1 :], item.name)

    def test_members_of_an_image_may_be_anywhere_in_the_tar(self):
        names = [f"{number:03d}" for number in range(40)]
        images = [(f"d/{name}.jpg", name.encode()) for name in names]
        classes = [(f"d/{name}.cls", str(int(name)).encode()) for name in reversed(names)]
        texts = [(f"d/{name}.json", json.dumps({"n": int(name)}).encode()) for name in names]
        for members in (images + classes + texts, texts + images + classes):
            for suffix, pack in PACK.items():
                path = self.write(pack(make_tar(members)), f"a.tar{suffix}")
                items = list(TarSource([path]).items())
                self.assertEqual([item.content.decode() for item in items], names)
                self.assertEqual([item.label for item in items], list(range(40)))
                self.assertEqual([item.meta for item in items], [{"n": n} for n in range(40)])
                rest = list(TarSource([path]).items(items[20].place))
                self.assertEqual(rest, items[21:])

    def test_every_member_is_an_item_or_belongs_to_one(self):
        items = self.items(
            [
                ("a.jpg", b"old"),
                ("a.cls", b"1"),
                ("lost.cls", b"2"),
                ("a.jpg", b"new"),
                ("A.CLS", b"3"),
                ("a.CLS", b"4"),
                ("README", b"text"),
                ("b.txt", b"caption"),
                ("__meta__/b.png", b"png"),
                ("b.png", b"png"),
                ("b.json", b'{"label": 5}'),
                ("b.cls", b"6"),
            ]
        )
        reasons = {(item.name, item.place[1]): item.reason for item in items if item.reason}
        self.assertRegex(reasons.pop(("a.jpg", 1)), "later member, a.jpg, is used")
        self.assertRegex(reasons.pop(("a.cls", 2)), "later member, a.CLS, is used")
        self.assertRegex(reasons.pop(("lost.cls", 3)), "no image in this tar")
        self.assertRegex(reasons.pop(("A.CLS", 5)), "no image in this tar")
        self.assertRegex(reasons.pop(("__meta__/b.png", 9)), "about the tar itself")
        self.assertRegex(reasons.pop(("b.json", 11)), "its label 5 is not the 6 of the .cls")
        self.assertEmpty(reasons)
        kept = [(item.name, item.label) for item in items if not item.reason]
        self.assertEqual(kept, [("a.jpg", 4), ("README", None), ("b.png", 6)])

    def test_names_with_several_dots_find_their_metadata(self):
        items = self.items(
            [
                ("x.1.jpg", b"1"),
                ("x.2.jpg", b"2"),
                ("y.seg.png", b"3"),
                ("y.jpg", b"4"),
                ("x.1.cls", b"1"),
                ("x.2.cls", b"2"),
                ("y.seg.cls", b"3"),
                ("y.cls", b"4"),
                ("./y.json", b'{"all": 1}'),
            ]
        )
        self.assertEqual([item.label for item in items], [1, 2, 3, 4])
        self.assertEqual([item.meta for item in items], [{}, {}, {"all": 1}, {"all": 1}])

    def test_a_hard_link_to_metadata_is_followed_and_one_to_an_image_is_listed(self):
        link = {"type": tarfile.LNKTYPE}
        items = self.items(
            [
                ("a.cls", b"7"),
                ("a.jpg", b"a"),
                ("b.cls", {**link, "linkname": "a.cls"}),
                ("b.jpg", b"b"),
                ("c.jpg", {**link, "linkname": "a.jpg"}),
                ("c.cls", {**link, "linkname": "elsewhere.cls"}),
            ]
        )
        self.assertEqual([item.label for item in items[:2]], [7, 7])
        for item, target in zip(items[2:], ["a.jpg", "elsewhere.cls"], strict=True):
            self.assertRegex(item.reason, f"hard link to {target}; .*--hard-dereference")

    def test_texts_that_are_not_utf8_are_listed_unless_their_encoding_is_named(self):
        members = [("a.png", b"a"), ("a.txt", "Bär".encode("cp1252"))]
        image, caption = self.items(members)
        self.assertEqual(image.meta, {})
        self.assertRegex(caption.reason, "line 1, column 2: the byte 0xe4 .*--encoding")
        path = self.write(make_tar(members))
        (image,) = TarSource([path], encoding="cp1252").items()
        self.assertEqual(image.meta, {"txt": "Bär"})
        (image,) = self.items([("a.png", b"a"), ("a.cls", "7".encode("utf-16"))])
        self.assertEqual(image.label, 7)

    def test_compressed_tars_are_the_same(self):
        plain = make_tar(web_members(4))
        expected = list(TarSource([self.write(plain)]).items())
        for suffix, pack in PACK.items():
            path = self.write(pack(plain), f"c.tar{suffix}")
            self.assertTrue(is_tar(path))
            self.assertEqual(list(TarSource([path]).items()), expected)
        self.assertTrue(is_tar(self.write(gzip.compress(plain), "without_suffix")))
        self.assertFalse(is_tar(self.write(pictures.encoded(), "a.png")))

    def test_nothing_but_plain_files_is_taken_and_names_are_no_paths(self):
        items = self.items(
            [
                ("link.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
                ("hard.png", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}),
                ("device.png", {"type": tarfile.CHRTYPE}),
                ("pipe.png", {"type": tarfile.FIFOTYPE}),
                ("/etc/abs.png", b"abs"),
                ("../../up.png", b"up"),
                ("._apple.png", b"junk"),
                ("l" * 3000 + ".png", b"long"),
            ]
        )
        reasons = [item.reason for item in items]
        self.assertRegex(reasons[0], "symbolic link to /etc/passwd")
        self.assertRegex(reasons[1], "hard link to /etc/passwd")
        self.assertRegex(reasons[2], "not a regular file")
        self.assertRegex(reasons[3], "not a regular file")
        self.assertEqual([item.content for item in items[4:6]], [b"abs", b"up"])
        self.assertRegex(reasons[6], "hidden file")
        self.assertLen(items[7].name, 3004)
        self.assertEqual(os.listdir(self.get_temp_dir()), ["a.tar"])

    def test_a_tar_that_is_cut_short_or_corrupt_gives_what_is_before_it_and_says_so(self):
        plain = make_tar(web_members(6))
        second = make_tar(web_members(1, first=9))
        for broken in [
            plain[: len(plain) // 2],
            plain[:3000] + b"\xff" * 512 + plain[3512:],  # data of an image: no tar can know
            plain[:4096] + b"\xff" * 512 + plain[4608:],  # a header
        ]:
            paths = [self.write(broken, "bad.tar"), self.write(second, "good.tar")]
            items = list(TarSource(paths).items())
            self.assertEqual(items[0].content, pictures.encoded(0))
            self.assertEqual(items[-1].content, pictures.encoded(9))
        reasons = [item.reason for item in items if item.reason]
        self.assertLen(reasons, 1)
        self.assertRegex(reasons[0], "corrupt after member 4")
        self.assertEqual([item.name for item in items if item.reason], ["bad.tar"])
        broken = gzip.compress(plain)[:-2000]
        items = list(TarSource([self.write(broken, "bad.tar.gz")]).items())
        self.assertRegex(items[-1].reason, "corrupt after")

    def test_what_a_header_says_about_sizes_is_not_believed(self):
        kept, tars.MAX_FILE_BYTES = tars.MAX_FILE_BYTES, 1000
        self.addCleanup(setattr, tars, "MAX_FILE_BYTES", kept)
        items = self.items([("big.png", b"x" * 1001), ("ok.png", b"y" * 1000)])
        self.assertRegex(items[0].reason, "file of 1001 bytes, more than 1000")
        self.assertIsNone(items[1].reason)
        # A header that claims more than there is, and one with an endless extension.
        lie = tarfile.TarInfo("lie.png")
        lie.size = 8 * 10**9
        extension = tarfile.TarInfo("x")
        extension.type, extension.size = tarfile.XHDTYPE, 8 * 10**9
        backwards = bytearray(tarfile.TarInfo("back.png").tobuf())
        backwards[124:136] = b"\xff" * 10 + b"\xfc\x00"  # a size of -1024
        checksum = 256 + sum(backwards[:148]) + sum(backwards[156:])
        backwards[148:156] = b"%06o\0 " % checksum
        for header, reason in [
            (lie.tobuf(), "file of 8000000000 bytes"),
            (extension.tobuf(), "a header of 8000000000 bytes"),
            (bytes(backwards), "points back|negative|corrupt"),
        ]:
            good = make_tar(web_members(1))[:2048]  # a picture and its metadata
            items = list(TarSource([self.write(good + header)]).items())
            self.assertEqual(items[0].content, pictures.encoded(0))
            self.assertRegex(items[1].reason, reason)
            self.assertLess(len(items), 4)

    def test_metadata_that_cannot_be_read_is_listed_and_its_image_kept(self):
        members = [("1.png", b"image"), ("1.json", b"{"), ("1.cls", b"cat"), ("1.txt", b"ok")]
        items = self.items(members)
        self.assertEqual([item.name for item in items], ["1.png", "1.json", "1.cls"])
        self.assertRegex(items[1].reason, "not JSON")
        self.assertRegex(items[2].reason, "'cat'; a .cls file has the number")
        self.assertEqual((items[0].content, items[0].meta), (b"image", {"txt": "ok"}))

    def test_tars_become_a_data_set(self):
        here = self.get_temp_dir()
        for number in range(3):
            self.write(make_tar(web_members(5, 5 * number)), f"web-{number:03d}.tar")
        for pattern in ("web-{000..002}.tar", "web-*.tar"):
            output = os.path.join(here, "out")
            result = convert(
                os.path.join(here, pattern), output, workers=2, progress=False, overwrite=True
            )
            self.assertEqual((result["rows"], result["rejected"]), (15, 0))
            examples = pictures.examples(output)
            self.assertEqual([example["label"] for example in examples], list(range(15)))
            self.assertEqual([example["meta"]["n"] for example in examples], list(range(15)))
        with self.assertRaisesRegex(ValueError, "web-003.tar is missing"):
            open_source(os.path.join(here, "web-{000..003}.tar"))


if __name__ == "__main__":
    tf.test.main()
