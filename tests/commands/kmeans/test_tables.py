"""`dc_tf kmeans` on Parquet: the clusters of the same rows in `.npy`, with their ids."""

import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from kmeans_command import ROWS, CommandTest, K

from dc_tf import api


class TablesTest(CommandTest):
    def setUp(self):
        super().setUp()
        self.ids = [f"photo-{i:04d}" for i in range(ROWS)]
        cut = ROWS // 3
        for name, rows in (("a", slice(0, cut)), ("b", slice(cut, ROWS))):
            table = pa.table({"id": self.ids[rows], "vector": list(self.x[rows])})
            pq.write_table(table, self.path(f"{name}.parquet"), row_group_size=70)
        self.tables = self.path("*.parquet")

    def test_clusters_are_those_of_the_matrix_and_carry_the_ids(self):
        self.result()
        expected = self.found()
        output = self.path("tables")
        printed = self.result("--id_column=id", input=self.tables, output=output)
        self.assertEqual(printed["rows"], ROWS)
        self.assertAllEqual(np.load(f"{output}/assignments.npy"), expected.assignments)
        self.assertAllEqual(np.load(f"{output}/centroids.npy"), expected.centroids)
        table = pq.read_table(f"{output}/assignments.parquet")
        self.assertEqual(table.column_names, ["row", "file", "id", "cluster"])
        self.assertEqual(table["id"].to_pylist(), self.ids)
        self.assertAllEqual(table["row"].to_numpy(), np.arange(ROWS))
        self.assertAllEqual(table["cluster"].to_numpy(), expected.assignments)
        self.assertEqual(table["file"][0].as_py(), "a.parquet")
        self.assertEqual(table["file"][ROWS - 1].as_py(), "b.parquet")

    def test_a_finished_clustering_gets_the_table_later(self):
        self.result()
        self.result("--format=parquet")
        table = pq.read_table(f"{self.output}/assignments.parquet")
        self.assertEqual(table.column_names, ["row", "file", "cluster"])
        self.assertAllEqual(table["cluster"].to_numpy(), np.load(f"{self.output}/assignments.npy"))

    def test_features_of_embed_carry_the_names_of_their_images(self):
        folder, cut = self.path("features"), ROWS // 3
        os.makedirs(folder)
        names = [f"photos/é {i}.jpg" for i in range(ROWS)]
        for number, rows in enumerate((slice(0, cut), slice(cut, ROWS))):
            part = f"{number:05}-of-00002"
            np.save(f"{folder}/fc7-{part}.npy", self.x[rows])
            lines = [
                json.dumps({"row": row, "source": names[row]}, ensure_ascii=False)
                for row in range(ROWS)[rows]
            ]
            pathlib.Path(folder, f"sources-{part}.jsonl").write_text("\n".join(lines) + "\n")
        output = self.path("named")
        self.result("--format=parquet", input=f"{folder}/fc7-*.npy", output=output)
        table = pq.read_table(f"{output}/assignments.parquet")
        self.assertEqual(table.column_names, ["row", "file", "source", "cluster"])
        self.assertEqual(table["source"].to_pylist(), names)
        os.remove(f"{folder}/sources-00001-of-00002.jsonl")
        self.result("--format=parquet", input=f"{folder}/fc7-*.npy", output=self.path("plain"))
        table = pq.read_table(self.path("plain/assignments.parquet"))
        self.assertEqual(table.column_names, ["row", "file", "cluster"])

    def test_ids_that_are_not_there_are_refused_before_anything_is_written(self):
        line = self.refusal(2, "--id_column=id")
        self.assertIn("x.npy is not a table", line)
        line = self.refusal(2, "--id_column=key", input=self.tables)
        self.assertIn("--id_column=key: ", line)
        self.assertIn("has the columns id, vector", line)
        line = self.refusal(2, "--id_column=cluster", input=self.tables)
        self.assertIn("a column of the output itself", line)
        line = self.refusal(2, "--column=other", input=self.tables)
        self.assertIn("has no column other; columns of vectors are vector", line)

    def test_python_reads_tables_as_well(self):
        found = api.kmeans(self.tables, K, column="vector")
        self.assertAllEqual(found.assignments, api.kmeans(self.x, K).assignments)


if __name__ == "__main__":
    tf.test.main()
