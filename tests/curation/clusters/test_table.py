"""Tables of clusterings have a row for each image, with all that is known of it."""

import csv
import json
import os
import tempfile
from unittest import mock

import clustered
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from dc_tf.clustering.nearness import two_nearest
from dc_tf.curation.clusters import open as clusters
from dc_tf.curation.clusters import record_parts
from dc_tf.curation.clusters import table as cluster_table
from dc_tf.curation.clusters.start import write_clusters
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError, Preempted

ROWS = clustered.ROWS


def odd(row):
    """Metadata whose types differ from row to row, and names that the table has itself."""
    values = [
        {"year": 1984, "tag": "sea", "cluster": "of a file"},
        {"year": 84.5, "tag": ["sea", "dog"], "row": 7},
        {"year": "about 1984", "tag": ["x"]},
        {},
    ]
    return values[row % 4]


class ClusterTableTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(record_parts, "PART_ROWS", 17))

    def path(self, name):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)

    def data(self, **changes):
        return clustered.write_data(self.path("data"), **changes)

    def table(self, data, name="t.parquet", **changes):
        rows = np.arange(ROWS)
        made = clustered.clustering(
            data,
            rows % 2,
            rows % 3,
            distance=rows.astype(np.float32) / 4,
            ratio=rows.astype(np.float32) / ROWS,
            **changes,
        )
        output = self.path(name)
        about = cluster_table.write_cluster_table(made, output, workers=1)
        self.assertEqual(os.listdir(os.path.dirname(output)), [name])
        return about, output

    def test_a_row_has_place_cluster_distance_label_and_metadata(self):
        about, output = self.table(self.data(meta=clustered.photo))
        table = pq.read_table(output)
        self.assertEqual((about["rows"], about["clusters"], about["corrupt_rows"]), (ROWS, 6, 0))
        self.assertEqual(about["columns"], table.column_names)
        for row in (0, 16, 17, ROWS - 1):
            (found,) = table.slice(row, 1).to_pylist()
            meta = clustered.photo(row)
            exposure = found.pop("exposure")
            self.assertAllClose(exposure, meta.pop("exposure"))
            self.assertEqual(
                found,
                {
                    "row": row,
                    "source": f"photos/{row}.png",
                    "cluster": row % 2,
                    "sub_cluster": row % 3,
                    "distance": row / 4,
                    "ratio": float(np.float32(row / ROWS)),
                    "outlier": False,
                    "cluster_size": ROWS // 6,
                    "single_source": False,
                    "label": row % 2,
                    "class": "dog" if row % 2 else "cat",
                }
                | meta,
            )

    def test_it_marks_outliers_and_clusters_of_a_single_user(self):
        def meta(row):
            return {"user": "one" if row % 2 else f"user{row}"} if row else {}

        data, distance = self.data(meta=meta), np.ones(ROWS, np.float32)
        distance[::4] = 1.1
        distance[6] = 9
        made = clustered.clustering(data, np.arange(ROWS) % 2, distance=distance)
        output = self.path("t.parquet")
        cluster_table.write_cluster_table(made, output, workers=1)
        table = pq.read_table(output)
        self.assertAllEqual(np.flatnonzero(table["outlier"].to_pylist()), [6])
        self.assertEqual(table["single_source"].to_pylist(), [False, True] * (ROWS // 2))
        self.assertEqual(set(table["cluster_size"].to_pylist()), {ROWS // 2})

    def test_without_distances_and_users_nothing_is_said(self):
        made = clustered.clustering(self.data(), np.arange(ROWS) % 2)
        output = self.path("t.parquet")
        cluster_table.write_cluster_table(made, output, workers=1)
        table = pq.read_table(output)
        for name in ("outlier", "single_source"):
            self.assertEqual(table[name].null_count, ROWS)

    def test_a_column_takes_the_type_that_holds_all_values(self):
        _, output = self.table(self.data(meta=odd))
        table = pq.read_table(output)
        self.assertEqual(table.schema.field("year").type, pa.string())
        self.assertEqual(table["year"].to_pylist()[:4], ["1984", "84.5", "about 1984", None])
        tags = [["sea"], ["sea", "dog"], ["x"], None]
        self.assertEqual(table["tag"].to_pylist(), tags * (ROWS // 4))
        self.assertEqual(table["meta.cluster"].to_pylist()[:2], ["of a file", None])
        self.assertEqual(table["meta.row"].to_pylist()[:2], [None, 7])

    def test_parts_of_other_types_are_brought_to_one(self):
        first = pa.table({"row": [0, 1], "n": pa.array([1, None], pa.int64())})
        second = pa.table({"row": [2], "n": [[0.5, 2.0]], "s": ["x"]})
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        paths = [os.path.join(folder, name) for name in "ab"]
        for path, table in zip(paths, (first, second), strict=True):
            pq.write_table(table, path)
        schema = record_parts.union_schema(paths)
        found = pa.concat_tables(record_parts.conformed(pq.read_table(p), schema) for p in paths)
        self.assertEqual(found["n"].to_pylist(), [[1.0], None, [0.5, 2.0]])
        self.assertEqual(found["s"].to_pylist(), [None, None, "x"])

    def test_csv_and_json_hold_the_same(self):
        data = self.data(meta=clustered.photo)
        with open(self.table(data, "t.csv")[1], encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        self.assertLen(lines, ROWS)
        self.assertEqual((lines[4]["hashtags"], lines[4]["cluster"]), ("sea; tag1", "0"))
        with open(self.table(data, "t.json")[1], encoding="utf-8") as file:
            self.assertEqual(json.load(file)[4]["hashtags"], ["sea", "tag1"])

    def test_a_corrupt_record_keeps_its_row_and_is_counted(self):
        data = self.data(meta=clustered.photo)
        dataset = Dataset.open(data)
        shard, entry = dataset.locate([5])
        with open(dataset.shard_path(shard[0]), "r+b") as file:
            file.seek(entry[0][0] + 3)
            file.write(b"\0\0\0\0")
        about, output = self.table(data)
        self.assertEqual(about["corrupt_rows"], 1)
        found = pq.read_table(output).slice(5, 1).to_pylist()[0]
        self.assertEqual((found["row"], found["source"], found["cluster"]), (5, None, 1))

    def test_names_that_are_no_text_become_escapes(self):
        data = self.data(source=lambda row: b"b\xe4r.png".decode("utf-8", "surrogateescape"))
        names = set(pq.read_table(self.table(data)[1])["source"].to_pylist())
        self.assertLen(names, 1)
        self.assertStartsWith(names.pop(), "b")

    def test_an_interrupted_call_reads_no_part_twice(self):
        data = self.data()
        made = clustered.clustering(data, np.arange(ROWS) % 2)
        output = self.path("t.parquet")
        stop = mock.patch.object(
            record_parts.stop_request, "raise_if_requested", side_effect=Preempted("stop")
        )
        with stop, self.assertRaises(Preempted):
            cluster_table.write_cluster_table(made, output, workers=1)
        self.assertFalse(os.path.exists(output))
        write = record_parts._write_part
        with mock.patch.object(record_parts, "_write_part", side_effect=write) as spy:
            cluster_table.write_cluster_table(made, output, workers=1)
        self.assertEqual([call.args[1] for call in spy.call_args_list], [17, 34, 51])
        self.assertEqual(pq.read_table(output)["row"].to_pylist(), list(range(ROWS)))

    @pytest.mark.slow
    def test_several_processes_write_the_same(self):
        data = self.data(meta=clustered.photo)
        made = clustered.clustering(data, np.arange(ROWS) % 2)
        tables = []
        for workers in (1, 2):
            output = self.path(f"{workers}.parquet")
            cluster_table.write_cluster_table(made, output, workers)
            tables.append(pq.read_table(output))
        self.assertTrue(tables[0].equals(tables[1]))


class OfKMeansTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.data = clustered.write_data(os.path.join(self.folder, "data"))
        random = np.random.default_rng(0)
        self.x = random.normal(size=(ROWS, 5)).astype(np.float32)
        self.centroids = random.normal(size=(4, 5)).astype(np.float32)
        self.features = os.path.join(self.folder, "x.npy")
        np.save(self.features, self.x)

    def kmeans(self, x, normalize=False):
        self.labels, *self.expected = two_nearest(x, self.centroids, np.ones(4, bool))
        return clustered.write_kmeans(
            os.path.join(self.folder, "clusters"),
            self.labels,
            self.centroids,
            settings={"k": 4, "normalize": normalize},
            input=[{"path": self.features, "rows": ROWS}],
        )

    def test_distances_are_measured_once_and_kept(self):
        folder = self.kmeans(self.x)
        made = clusters.open_clustering(clusters=folder, data=self.data)
        self.assertIsNone(made.distance)
        found = clusters.with_distances(made)
        self.assertAllClose(found.distance, self.expected[0], 1e-5)
        self.assertAllClose(found.ratio, self.expected[1], 1e-5)
        os.remove(self.features)
        again = clusters.with_distances(clusters.open_clustering(clusters=folder, data=self.data))
        self.assertAllEqual(again.distance, found.distance)

    def test_rows_of_length_1_are_measured_as_they_were_clustered(self):
        folder = self.kmeans(self.x / np.linalg.norm(self.x, axis=1, keepdims=True), True)
        found = clusters.with_distances(clusters.open_clustering(clusters=folder, data=self.data))
        self.assertAllClose(found.distance, self.expected[0], 1e-5)

    def test_files_that_changed_are_refused(self):
        folder = self.kmeans(self.x)
        np.save(self.features, self.x[:-1])
        with self.assertRaisesRegex(DataError, "have other rows now; cluster them again"):
            clusters.with_distances(clusters.open_clustering(clusters=folder, data=self.data))

    def test_what_cannot_work_is_refused_before_anything_is_read(self):
        output = os.path.join(self.folder, "t.parquet")
        folder = self.kmeans(self.x)
        for which, message in (
            ({}, "give --run=RUN, or --clusters=CLUSTERS with --data=DATA"),
            ({"run": "r", "clusters": folder}, "give --run=RUN, or"),
            ({"clusters": folder}, "--clusters needs the data set"),
            ({"clusters": folder, "data": self.data, "stage": "x"}, "--stage and --round are of"),
            ({"clusters": self.data, "data": self.data}, "is not the --output of a `dc_tf kmeans`"),
            ({"run": self.data}, "is not the folder of a run"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                write_clusters(output, **which)
        for path, format, message in (
            ("t.txt", None, "use .parquet, .csv or .json"),
            ("t", "xml", "--format=xml is not known; use one of parquet, csv, json"),
            ("missing/t.csv", None, "/missing does not exist"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                write_clusters(os.path.join(self.folder, path), format, run="r")
        self.assertFalse(os.path.exists(output))


if __name__ == "__main__":
    tf.test.main()
