"""A small data set with metadata and clusterings of it, for the tests of the report."""

import io
import json
import os
import types

import numpy as np
from PIL import Image

from dc_tf.atomic import write_json, write_text
from dc_tf.clustering.assignments import Assignments, commit, write_block
from dc_tf.clustering.kept_clustering import KeptClustering
from dc_tf.clustering.store.points import as_points
from dc_tf.clustering.store.whitening import Whitening
from dc_tf.curation.clusters.open import Clustering
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.distributed.collectives import Solo
from dc_tf.experiment import load, to_yaml
from dc_tf.run_dir import RunDir

ROWS, CLUSTERS, SUB_CLUSTERS = 60, 2, 3
STAGES = [
    {"name": "rotnet", "epochs": 1, "clusters": 1, "sub_clusters": 0, "batch_size": 8},
    {
        "name": "deepercluster",
        "epochs": 2,
        "clusters": CLUSTERS,
        "sub_clusters": SUB_CLUSTERS,
        "batch_size": 8,
    },
]


def image(colour, side=24):
    """A PNG of one colour with some noise."""
    rng = np.random.default_rng(abs(hash(tuple(colour))) % 1000)
    pixels = np.clip(np.asarray(colour) + rng.integers(-9, 10, (side, side, 1)), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_data(path, rows=ROWS, meta=None, labels=True, class_names=("cat", "dog"), source=None):
    """A data set whose row i has label i % 2 and is red or green for it.

    Args:
        meta: function of a row to its metadata; None for none.
        source: function of a row to its source.
    """
    with DatasetWriter(path, class_names=class_names if labels else None) as writer:
        for row in range(rows):
            writer.write(
                image((200, 40, 40) if row % 2 else (30, 180, 60 + row)),
                label=row % 2 if labels else None,
                source=source(row) if source else f"photos/{row}.png",
                meta=meta(row) if meta else None,
            )
    return path


def photo(row):
    """Metadata like that of a photograph."""
    return {
        "user": f"user{row % 5}",
        "camera": "old" if row % 2 else "new",
        "hashtags": ["sea", f"tag{row % 3}"],
        "latitude": 10.5 + row % 2,
        "longitude": -3.5,
        "exposure": row / 7,
    }


def clustering(data, cluster, sub=None, **changes):
    """A source.Clustering of some labels."""
    cluster = np.asarray(cluster)
    sub = np.zeros_like(cluster) if sub is None else np.asarray(sub)
    return Clustering(
        "clusters",
        data,
        Dataset.open(data),
        cluster,
        sub,
        int(cluster.max()) + 1,
        int(sub.max()) + 1,
        **changes,
    )


def write_kmeans(path, cluster, centroids, **about):
    """The output folder of `dc_tf kmeans` for some rows."""
    os.makedirs(path)
    np.save(os.path.join(path, "assignments.npy"), np.asarray(cluster, np.int32))
    np.save(os.path.join(path, "centroids.npy"), np.asarray(centroids, np.float32))
    made = {
        "result": {"output": path},
        "settings": {"k": len(centroids)},
        "input": [{"path": "features.npy", "rows": len(cluster)}],
        "objective": [9.0, 5.0, 4.0],
        "warnings": [],
        "seconds": 1.5,
        "versions": {"dc_tf": "0.0"},
    }
    write_json(os.path.join(path, "clustering.json"), made | about)
    return path


def write_run(path, data, rounds=2, lines=()):
    """A run folder with clusterings of a data set, without a checkpoint.

    Args:
        rounds: clusterings of the second stage; row i is in cluster i % 2.
        lines: of the log, after some of its own.
    """
    run = RunDir(path)
    run.create()
    settings = {"data": {"path": data}, "model": {"width": 1 / 16}, "stages": STAGES}
    write_text(run.config, to_yaml(load(params_override=[repr(settings)])))
    write_json(run.data, {"path": data, "fingerprint": Dataset.open(data).fingerprint()})
    rows = np.arange(Dataset.open(data).rows)
    for number in range(rounds):
        folder = run.clustering(1, number)
        write_block(folder, 0, 1, 0, rows % CLUSTERS, (rows // 2 + number) % SUB_CLUSTERS)
        commit(folder, 1, CLUSTERS, SUB_CLUSTERS)
    with open(run.metrics, "w", encoding="utf-8") as file:
        for line in [*_training(), *lines]:
            file.write(json.dumps(line) + "\n")
    return path


def keep(path, number):
    """Keeps the centroids of a clustering of `write_run`, and distances of the rows to them.

    Row i is at distance i from its centroid, which is 1,000 from the others.
    """
    folder = RunDir(path).clustering(1, number)
    found = Assignments.open(folder)
    rows, flat = len(found.cluster), found.flat()
    count = CLUSTERS * SUB_CLUSTERS
    centroids = 1000 * np.eye(count, count + 1, dtype=np.float32)
    points = centroids[flat]
    points[:, count] = np.arange(rows)
    counts = np.bincount(flat, minlength=count).reshape(CLUSTERS, SUB_CLUSTERS)
    kept = KeptClustering(folder, Solo(), {"stage": 1, "round": number, "step": 10})
    kept.write(1, 0, centroids[:CLUSTERS])
    for index, own in enumerate(np.split(centroids, CLUSTERS)):
        kept.write(2, index, own)
    result = types.SimpleNamespace(
        report={"level2": [{}]}, counts=counts, cluster=found.cluster, sub=found.sub
    )
    kept.write_nearness(as_points(points), 0, result)
    about = {"rows": rows, "sub_clusters": SUB_CLUSTERS, "store_dtype": "float32"}
    whitening = Whitening(np.zeros(count + 1, np.float32), np.eye(count + 1, dtype=np.float32))
    kept.commit(about, whitening, counts, lambda prefix: write_text(f"{prefix}.index", "none"))


def _training():
    """Lines of a log: ten of the first stage, ten of the second."""
    for step in range(1, 21):
        stage = int(step > 10)
        if step == 11:
            line = {"event": "clustering", "step": 10, "stage": 1, "round": 0, "warnings": []}
            yield line | {"extract_seconds": 2.0, "cluster_seconds": 1.0}
        yield {
            "event": "train",
            "step": step,
            "stage": stage,
            "epoch": 0,
            "learning_rate": 0.1,
            "loss": 2.0 / step,
            "super_loss": 2.0 / step,
            "sub_loss": 0.5 * stage,
            "super_accuracy": 0.5,
            "rotation_accuracy": 0.5,
            "sub_accuracy": 0.4 * stage,
            "gradient_norm": 1.0,
            "head_gradient_norm": 0.1,
            "images_per_second": 4.0,
            "input_wait": 0.25,
        }
