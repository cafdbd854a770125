"""A site of the browser over a small data set, and a client of it, for the tests of the browser."""

import os

import clustered
import numpy as np
from starlette.testclient import TestClient

from dc_tf.atomic import write_json
from dc_tf.report.browser.app import make_app
from dc_tf.report.browser.guard import Access
from dc_tf.report.browser.site import Source, open_site

TOKEN = "the-token"
ORIGIN = {"origin": "http://testserver"}


def open_run(folder, **data):
    """(Site, run folder) of a run with distances and embeddings.

    Args:
        data: of `clustered.write_data`.
    """
    made = clustered.write_data(os.path.join(folder, "data"), **{"meta": clustered.photo} | data)
    run = clustered.write_run(os.path.join(folder, "run"), made)
    clustered.keep(run, 1)
    features = os.path.join(folder, "features.npy")
    np.save(features, vectors())
    return open_site(Source(run=run, features=features), os.path.join(folder, "work")), run


def vectors():
    """(rows, 8) features, of which rows i and i + 2 are near each other."""
    rows = np.arange(clustered.ROWS)
    noise = np.random.default_rng(0).normal(size=(len(rows), 8)) / 50
    return (np.stack([np.cos(rows / 9 + k * (rows % 2)) for k in range(8)], 1) + noise).astype("f4")


def embedded(run, dataset):
    """Writes what `dc_tf search --run` keeps in a run folder; returns the folder of features."""
    folder = os.path.join(run, "embeddings", "fc7")
    os.makedirs(folder)
    np.save(os.path.join(folder, "fc7-00000-of-00001.npy"), vectors())
    about = {"data": dataset.fingerprint(), "rows": dataset.rows, "files": 1, "dims": {"fc7": 8}}
    write_json(os.path.join(folder, "embed.json"), {**about, "model": run, "weights": "none"})
    write_json(f"{folder}.json", {})
    return folder


def client(site, signed_in=True, **access):
    """A TestClient of the application of a Site."""
    app = make_app(site, Access(TOKEN, frozenset({"testserver"}), **access))
    made = TestClient(app, follow_redirects=False)
    if signed_in:
        made.cookies.set("dc_tf_browse", TOKEN)
    return made
