"""Addresses of TensorFlow Hub: the package itself fetches them, from a server on this machine."""

import contextlib
import functools
import http.server
import io
import json
import os
import tarfile
import tempfile
import threading
from unittest import mock

import numpy as np
import pictures
import pytest
import runs
import tensorflow as tf
from other_networks import SIDE, saved_model

import dc_tf
from dc_tf.commands.main import main
from dc_tf.errors import DataError
from dc_tf.networks.network import Wanted
from dc_tf.networks.open import open_network
from dc_tf.networks.preprocessing import read

IMAGES = np.random.default_rng(0).random((3, SIDE, SIDE, 3)).astype(np.float32)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the bytes of a dict, as tfhub.dev does: the archive for `?tf-hub-format=...`."""

    def __init__(self, answers, asked, *args):
        self._answers, self._asked = answers, asked
        super().__init__(*args)

    def do_GET(self):
        self._asked.append(self.path)
        place, _, query = self.path.partition("?")
        body = self._answers.get(place) if query == "tf-hub-format=compressed" else None
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        """Nothing: tests show their own lines only."""


def packed(folder):
    """The bytes of a .tar.gz of what is in a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return file.getvalue()


class HubTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        pytest.importorskip("tensorflow_hub")
        self.root = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.cache = os.path.join(self.root, "cache")
        self.enterContext(mock.patch.dict(os.environ, {"TFHUB_CACHE_DIR": self.cache}))
        model = saved_model(os.path.join(self.root, "theirs"))
        self.answers, self.asked = {"/vectors/1": packed(model), "/text/1": b"no archive"}, []
        handler = functools.partial(_Handler, self.answers, self.asked)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.address = f"http://127.0.0.1:{server.server_port}"

    def test_a_network_is_fetched_once_and_then_taken_from_the_cache(self):
        for _ in range(2):
            network = open_network(f"{self.address}/vectors/1", Wanted())
            self.assertAllClose(network(IMAGES)["mean"], 2 * IMAGES.mean((1, 2)), rtol=1e-5)
        self.assertEqual(network.preprocessing_from, "TensorFlow Hub's common signature")
        self.assertEqual(self.asked, ["/vectors/1?tf-hub-format=compressed"])
        (fetched,) = (name for name in os.listdir(self.cache) if "." not in name)
        self.assertIn("saved_model.pb", os.listdir(os.path.join(self.cache, fetched)))

    def test_an_address_without_a_network_is_named(self):
        for place, reason in (("/none/1", "404"), ("/text/1", "")):
            address = self.address + place
            with self.assertRaisesRegex(DataError, f"{address} cannot be fetched: .*{reason}"):
                open_network(address, Wanted(preprocessing=read("0-1")))

    def test_features_are_those_of_the_same_network_in_a_folder(self):
        data = runs.make_data(self.root, images=12)
        output, out = os.path.join(self.root, "features"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            flags = f"--model={self.address}/vectors/1", f"--data={data}", f"--output={output}"
            self.assertEqual(main(["embed", *flags]), 0)
        about = json.loads(out.getvalue().splitlines()[-1])
        self.assertEqual(about["model"], f"{self.address}/vectors/1")
        model = os.path.join(self.root, "theirs")
        expected = dc_tf.embed(model, data, preprocessing="0-1")
        self.assertAllEqual(np.load(os.path.join(output, "mean-00000-of-00001.npy")), expected)
        image = pictures.write(self.root, "mine.png", pictures.encoded(size=(40, 40)))
        near = dc_tf.search(image, features=output, data=data, k=2)
        self.assertLen(near["neighbours"], 2)
        self.assertLen(self.asked, 1)  # the network that embeds the image is in the cache


if __name__ == "__main__":
    tf.test.main()
