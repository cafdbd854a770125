"""Folders: which files, in which order, and starting in the middle."""

import os

import pictures
import tensorflow as tf

from dc_tf.data.sources.folder import FolderSource, walk
from dc_tf.data.sources.open import open_source
from dc_tf.errors import ConfigError


class FolderSourceTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.get_temp_dir(), "in")
        os.makedirs(self.folder)

    def add(self, *names):
        for name in names:
            pictures.write(self.folder, name, b"x")

    def open(self, **settings):
        return FolderSource(self.folder, progress=False, **settings)

    def test_the_order_is_that_of_all_relative_paths_though_nothing_is_sorted_as_a_whole(self):
        names = ["a.jpg", "a/z.jpg", "a/b/c.jpg", "a-b.jpg", "a0/x", "b", "B/q", "a/b.jpg", "ä/1"]
        self.add(*names)
        self.assertEqual([name for name, _ in walk(self.folder)], sorted(names))

    def test_items_resume_behind_any_place(self):
        self.add("a/1", "b/2", "b/.3", "4")
        items = list(self.open(labels_from_folders=True).items())
        self.assertEqual([item.label for item in items], [None, 0, 1, 1])
        for number, item in enumerate(items):
            rest = self.open(labels_from_folders=True).items(item.place)
            self.assertEqual(list(rest), items[number + 1 :])

    def test_a_folder_with_hidden_files_only_is_no_class(self):
        self.add("a/1", "b/.2", ".git/x", "__MACOSX/y")
        source = self.open(labels_from_folders=True)
        self.assertEqual(source.class_names, ["a"])
        self.assertEqual(source.total, 4)

    def test_links_are_followed_once_and_the_output_is_left_out(self):
        self.add("a/1", "out/data", "deep/er/2")
        os.symlink("../a", os.path.join(self.folder, "deep", "a"))
        self.addCleanup(os.remove, os.path.join(self.folder, "deep", "a"))
        os.symlink("..", os.path.join(self.folder, "deep", "up"))
        self.addCleanup(os.remove, os.path.join(self.folder, "deep", "up"))
        output = os.path.join(self.folder, "out")
        found = dict(walk(self.folder, skip=output))
        self.assertRegex(found.pop("deep/a/"), "link to a folder whose files are listed already")
        self.assertEqual(found, {"a/1": None, "deep/er/2": None})  # nothing is lost by a loop

    def test_another_list_of_files_is_another_source(self):
        self.add("a", "b")
        before = self.open().identity
        self.assertEqual(self.open().identity, before)
        os.rename(os.path.join(self.folder, "a"), os.path.join(self.folder, "c"))
        self.assertNotEqual(self.open().identity, before)

    def test_labels_from_folders_need_a_folder(self):
        self.add("list.csv")
        with self.assertRaisesRegex(ConfigError, "labels_from_folders needs a folder"):
            open_source(os.path.join(self.folder, "list.csv"), labels_from_folders=True)


if __name__ == "__main__":
    tf.test.main()
