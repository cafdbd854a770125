"""Measures how long pages of `dc_tf browse` take on a generated collection.

    python benchmarks/browse.py --folder=/scratch/here                  # a million rows
    python benchmarks/browse.py --folder=/scratch/here --rows=100000

Some thousand pictures are drawn, and the collection repeats them: records are read from the shards
for every row, and index, table and features have all rows. Times are of whole answers of the
application, without a network, medians and maxima over different clusters, rows and words.
"""

import json
import os
import resource
import time

import numpy as np
from absl import app, flags
from starlette.testclient import TestClient

from dc_tf import atomic
from dc_tf.curation.clusters.open import Clustering
from dc_tf.curation.features.open import Features, open_features
from dc_tf.curation.tables import TableWriter
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.row_list import RowList
from dc_tf.data.synthetic.generate import generate
from dc_tf.report.browser.app import make_app
from dc_tf.report.browser.examples import Examples
from dc_tf.report.browser.guard import Access
from dc_tf.report.browser.index import ClusterIndex
from dc_tf.report.browser.pictures import Pictures
from dc_tf.report.browser.rounds import Rounds
from dc_tf.report.browser.selections import Selections
from dc_tf.report.browser.site import Site
from dc_tf.report.browser.text_search import TextTable

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", None, "For what is generated; kept for the next call.", required=True)
flags.DEFINE_integer("rows", 1_000_000, "Rows of the collection.")
flags.DEFINE_integer("images", 2048, "Pictures that they repeat.")
flags.DEFINE_integer("clusters", 320, "Clusters of the first level.")
flags.DEFINE_integer("sub_clusters", 100, "Sub-clusters of each.")
flags.DEFINE_integer("dim", 64, "Components of a feature.")
flags.DEFINE_integer("times", 20, "Requests of each kind.")

_PART = 1 << 16


def main(_) -> None:
    atomic.make_folder(FLAGS.folder)
    started = time.monotonic()
    site = open_collection()
    print(json.dumps({"seconds_to_open": round(time.monotonic() - started, 1)}))
    client = TestClient(make_app(site, Access("t", frozenset({"testserver"}))))
    client.cookies.set("dc_tf_browse", "t")
    for name, paths in requests(site).items():
        seconds = [timed(client, path) for path in paths]
        median, most = np.median(seconds), max(seconds)
        line = {"page": name, "median_ms": round(1000 * median), "most_ms": round(1000 * most)}
        print(json.dumps(line), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps({"rows": site.dataset.rows, "clusters": site.index.count, "peak_mb": peak >> 10})
    )


def requests(site) -> dict[str, list[str]]:
    """{kind of page: addresses}."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, site.dataset.rows, FLAGS.times).tolist()
    clusters = site.index.flat[rows].tolist()
    sorts = ("largest", "purest", "loose", "mixed", "tight")
    return {
        "overview": [f"/?sort={sorts[n % 5]}&page={n + 1}" for n in range(FLAGS.times)],
        "overview, filtered": [f"/?text={n}&least=20" for n in range(FLAGS.times)],
        "cluster": [f"/cluster/{c}" for c in clusters],
        "cluster, from the farthest": [f"/cluster/{c}?sort=far" for c in clusters],
        "image": [f"/image/{row}" for row in rows],
        "similar images": [f"/image/{row}/similar" for row in rows],
        "outliers": [f"/outliers?page={n + 1}" for n in range(FLAGS.times)],
        "search, frequent": [f"/search?q=tag{n}&in=hashtags" for n in range(FLAGS.times)],
        "search, one row": [f"/search?q=photo-{row:09d}" for row in rows],
        "thumbnail": [f"/thumbnail/{row}" for row in rows],
    }


def timed(client, path) -> float:
    """Seconds of an answer."""
    started = time.perf_counter()
    answer = client.get(path)
    seconds = time.perf_counter() - started
    assert answer.status_code == 200, (path, answer.status_code)
    return seconds


def open_collection() -> Site:
    """A Site of a generated collection."""
    dataset = repeated_dataset()
    rng = np.random.default_rng(0)
    rows, count = dataset.rows, FLAGS.clusters * FLAGS.sub_clusters
    flat = (count * rng.random(rows) ** 1.5).astype(np.int32)
    clustering = Clustering(
        name="generated",
        path=FLAGS.folder,
        dataset=dataset,
        cluster=flat // FLAGS.sub_clusters,
        sub=flat % FLAGS.sub_clusters,
        clusters=FLAGS.clusters,
        sub_clusters=FLAGS.sub_clusters,
        distance=rng.random(rows).astype(np.float32),
    )
    examples = Examples(features(dataset))
    examples.prepare()
    return Site(
        name="generated",
        dataset=dataset,
        clustering=clustering,
        index=ClusterIndex.of(clustering, path("index")),
        pictures=Pictures(dataset),
        rounds=Rounds([]),
        table=table(rows),
        examples=examples,
        selections=Selections(path("selections"), dataset),
        single=None,
        version="generated",
    )


def repeated_dataset() -> Dataset:
    """A view that repeats the rows of a small data set, which is drawn if it is missing."""
    if not os.path.isdir(path("data")):
        generate(path("data"), images=FLAGS.images, size=192)
    base = Dataset.open(path("data"))
    row_ids = np.arange(FLAGS.rows) % base.rows
    return base.view(
        base.path, RowList(base.path, base.fingerprint(), row_ids, f"{FLAGS.rows}"), {}
    )


def table(rows) -> TextTable:
    """A table of names and hashtags."""
    place = path(f"clusters-{rows}.parquet")
    columns = {"row": "int64", "file": "string", "user": "string"}
    if not os.path.isfile(place):
        import pyarrow as pa

        schema = pa.schema(
            [*((name, pa.type_for_alias(kind)) for name, kind in columns.items())]
            + [("hashtags", pa.list_(pa.string()))]
        )
        with TableWriter(place, schema) as writer:
            for start in range(0, rows, _PART):
                ids = range(start, min(start + _PART, rows))
                batch = {"row": ids, "file": [f"folder/{r // 1000}/photo-{r:09d}.jpg" for r in ids]}
                batch["user"] = [f"user{r % 9973}" for r in ids]
                batch["hashtags"] = [[f"tag{r % 100}", f"place{r % 7}"] for r in ids]
                writer.write(pa.table(batch, schema=schema))
    return TextTable.open(place, rows)


def features(dataset) -> Features:
    """Features of some thousand groups, drawn if they are missing."""
    place = path(f"features-{dataset.rows}-{FLAGS.dim}.npy")
    if not os.path.isfile(place):
        rng = np.random.default_rng(2)
        centres = rng.normal(size=(1000, FLAGS.dim)).astype(np.float32)
        shape = (dataset.rows, FLAGS.dim)
        array = np.lib.format.open_memmap(f"{place}.new.npy", "w+", np.float16, shape)
        for start in range(0, dataset.rows, _PART):
            stop = min(start + _PART, dataset.rows)
            noise = rng.normal(size=(stop - start, FLAGS.dim)).astype(np.float32)
            array[start:stop] = centres[rng.integers(0, 1000, stop - start)] + noise / 2
        array.flush()
        os.replace(f"{place}.new.npy", place)
    return open_features(features=place, data=dataset)


def path(name) -> str:
    return os.path.join(FLAGS.folder, name)


if __name__ == "__main__":
    app.run(main)
