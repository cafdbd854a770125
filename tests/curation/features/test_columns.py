"""Features in a table of several vector columns: --column of every command that takes features."""

import os
import shutil
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import dc_tf
from dc_tf.curation.clusters.open import of_kmeans
from dc_tf.curation.clusters.start import assign
from dc_tf.curation.features.directions import folder_of
from dc_tf.curation.features.open import open_features
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.synthetic.generate import generate
from dc_tf.errors import ConfigError
from dc_tf.evaluation.frozen.given_features import open_matrix
from dc_tf.evaluation.tasks import Request
from dc_tf.report.browser.examples import kept_features
from dc_tf.report.browser.site import Source, check_source

ROWS = 24


class ColumnsTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.data = os.path.join(cls.root, "data")
        generate(cls.data, images=ROWS, size=32, processes=1)
        random = np.random.default_rng(0)
        cls.vectors = {
            name: random.standard_normal((ROWS, dim)).astype(np.float32)
            for name, dim in (("image", 6), ("text", 4))
        }
        cls.table = os.path.join(cls.root, "vectors.parquet")
        pq.write_table(pa.table({n: list(x) for n, x in cls.vectors.items()}), cls.table)
        cls.plain = os.path.join(cls.root, "text.npy")
        np.save(cls.plain, cls.vectors["text"])

    def test_the_column_is_opened_and_several_are_listed(self):
        features = open_features(features=self.table, data=self.data, column="text")
        self.assertAllEqual(features.read(3, 9), self.vectors["text"][3:9])
        other = open_features(features=self.table, data=self.data, column="image")
        self.assertNotEqual(features.fingerprint(), other.fingerprint())
        self.assertEndsWith(folder_of(features), "vectors-text.index")
        self.assertEndsWith(folder_of(open_features(features=self.plain)), "text.index")
        with self.assertRaisesRegex(ConfigError, "columns image, text; name one with --column"):
            open_features(features=self.table)
        with self.assertRaisesRegex(ConfigError, "--column=text is of files of --features"):
            open_features(run="RUN", column="text")
        with self.assertRaisesRegex(ConfigError, "of tables and .npz archives; .* is a folder"):
            open_features(features=self.root, column="text")
        archive = os.path.join(self.root, "both.npz")
        np.savez(archive, **self.vectors)
        again = open_features(features=archive, column="text")
        self.assertAllEqual(again.read(0, ROWS), self.vectors["text"])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_commands_find_in_a_column_what_they_find_in_a_file_of_it(self):
        table = {"features": self.table, "column": "text", "data": self.data}
        plain = {"features": self.plain, "data": self.data}
        found, expected = ({**dc_tf.search(3, **given, k=4)} for given in (table, plain))
        self.assertEqual(found["neighbours"], expected["neighbours"])
        same = [
            dc_tf.find_duplicates(**given, dry_run=True, pixels=False) for given in (table, plain)
        ]
        self.assertEqual(*same)
        views = [os.path.join(self.root, name) for name in ("a", "b")]
        for given, view in zip((table, plain), views, strict=True):
            dc_tf.curate(output=view, target=6, levels=[4], **given)
        self.assertAllEqual(*(Dataset.open(view).base_rows(range(6)) for view in views))
        request = Request("knn", features=self.table, column="text")
        self.assertAllEqual(open_matrix(request, "features").read(0, 9), self.vectors["text"][:9])
        with self.assertRaisesRegex(ConfigError, "--column=x is of --features|column=x is of feat"):
            dc_tf.evaluate("knn", "MODEL", train=self.data, test=self.data, column="x")

    def test_clusters_of_a_column_are_browsed_and_assigned_by_it(self):
        clusters = os.path.join(self.root, "clusters")
        dc_tf.kmeans(self.table, k=3, output=clusters, column="text")
        kept = kept_features(of_kmeans(clusters, Dataset.open(self.data)))
        self.assertAllEqual(kept.read(0, ROWS), self.vectors["text"])
        output = os.path.join(self.root, "new.parquet")
        assign(self.data, output, clusters=clusters, features=self.table, column="text")
        labels = np.load(os.path.join(clusters, "assignments.npy"))
        self.assertAllEqual(pq.read_table(output)["cluster"].to_numpy(), labels)
        with self.assertRaisesRegex(ConfigError, "--column=x is of --features"):
            check_source(Source(clusters=clusters, data=self.data, column="x"))


if __name__ == "__main__":
    tf.test.main()
