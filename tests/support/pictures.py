"""Small image files, and what became of them, for the tests of data."""

import hashlib
import io
import json
import os

import numpy as np
from PIL import Image

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader


def encoded(seed=0, form="PNG", size=(12, 10)):
    """Bytes of an image of its own for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write(folder, name, data):
    """Writes a file below a folder; returns its path."""
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    return path


def examples(path):
    """All rows of a data set, decoded."""
    dataset = Dataset.open(path)
    return RowReader(dataset).examples(np.arange(dataset.rows))


def sources(path):
    return [example["source"] for example in examples(path)]


def rejected(path):
    """{path: reason} of a data set's `rejected.jsonl`, in its order."""
    with open(os.path.join(path, "rejected.jsonl")) as file:
        return {line["path"]: line["reason"] for line in map(json.loads, file)}


def files(path):
    """{name: SHA-256} of all files below a folder."""
    found = {}
    for parent, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(os.path.join(parent, name), path)] = digest
    return found
