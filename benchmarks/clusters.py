"""Measures time and memory of the table of a clustering (`dc_tf clusters`).

    python benchmarks/clusters.py --folder=/scratch/here                 # 1 and 10 million rows

A data set of --distinct small images with metadata whose shard is listed many times has as many
rows as wanted. Labels and distances are random. Each size is written by a process of its own:
images per second, seconds, size of the file, and the peak memory of that process and of the largest
one that reads for it.
"""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", None, "For the data set and the tables.", required=True)
flags.DEFINE_list("rows", ["1000000", "10000000"], "Sizes.")
flags.DEFINE_integer("distinct", 100_000, "Images that are written.")
flags.DEFINE_integer("workers", 2, "Processes that read.")
flags.DEFINE_integer("measure", None, "Of the child: rows to write.")


def main(_) -> None:
    if FLAGS.measure:
        print(json.dumps(measure(FLAGS.measure)))
        return
    make_data(os.path.join(FLAGS.folder, "data"))
    for rows in FLAGS.rows:
        command = [sys.executable, __file__, *sys.argv[1:], f"--measure={rows}"]
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="")


def make_data(path) -> None:
    """Writes the distinct images, unless they are there."""
    from dc_tf.data.storage.writer import DatasetWriter

    if os.path.exists(os.path.join(path, "manifest.json")):
        return
    pixel = b"\x89PNG\r\n\x1a\n" + bytes(60)  # never decoded
    with DatasetWriter(path, rows_per_shard=FLAGS.distinct, class_names=["cat", "dog"]) as writer:
        for row in range(FLAGS.distinct):
            meta = {
                "user": f"user{row % 997}",
                "hashtags": [f"tag{row % 31}", f"tag{row % 89}"],
                "latitude": row * 0.001 - 50.0,
                "year": 1900 + row % 120,
            }
            writer.write(pixel, label=row % 2, source=f"photos/{row:09d}.jpg", meta=meta)


def measure(rows) -> dict:
    from dc_tf.curation.clusters.table import write_cluster_table

    random = np.random.default_rng(0)
    clustering = _clustering(os.path.join(FLAGS.folder, f"data-{rows}"), rows, random)
    output = os.path.join(FLAGS.folder, f"{rows}.parquet")
    before = peak_mb()
    started = time.monotonic()
    write_cluster_table(clustering, output, FLAGS.workers)
    seconds = time.monotonic() - started
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "file_mb": round(os.path.getsize(output) / 1e6, 1),
        "mb_before": before,
        "peak_mb": peak_mb(),
        "peak_mb_of_a_reader": peak_mb(resource.RUSAGE_CHILDREN),
    }


def peak_mb(who=resource.RUSAGE_SELF) -> int:
    return round(resource.getrusage(who).ru_maxrss / 1024)


def _clustering(path, rows, random):
    """A Clustering with random labels of a data set that repeats its shard."""
    from dc_tf.curation.clusters.open import Clustering
    from dc_tf.data.storage.manifest import Dataset

    source = os.path.join(FLAGS.folder, "data")
    os.makedirs(path, exist_ok=True)
    for name in os.listdir(source):
        if not os.path.exists(os.path.join(path, name)):
            os.link(os.path.join(source, name), os.path.join(path, name))
    with open(os.path.join(source, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    repeats = rows // FLAGS.distinct
    manifest |= {"shards": manifest["shards"] * repeats, "rows": repeats * FLAGS.distinct}
    os.remove(os.path.join(path, "manifest.json"))
    with open(os.path.join(path, "manifest.json"), "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    dataset = Dataset.open(path)
    return Clustering(
        "random",
        path,
        dataset,
        random.integers(0, 4, dataset.rows, np.int32),
        random.integers(0, 1000, dataset.rows, np.int32),
        4,
        1000,
        distance=random.random(dataset.rows, np.float32),
        ratio=random.random(dataset.rows, np.float32),
    )


if __name__ == "__main__":
    app.run(main)
