"""Images that a few steps learn: noise with stripes that run across or down."""

import contextlib
import io

import numpy as np
import tensorflow as tf

from dc_tf.commands.main import main
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.nn.vgg16 import VGG16

RESOLUTION = 32
NAMES = ("across", "down")


def stripes(label, random):
    """PNG of noise with stripes that run across (0) or down (1)."""
    image = random.integers(0, 60, (RESOLUTION, RESOLUTION, 3), np.uint8)
    image[random.integers(0, 4) :: 4] += 150
    return tf.io.encode_png(image if label == 0 else image.transpose(1, 0, 2)).numpy()


def write_stripes(path, rows, seed, names=NAMES, label_of=NAMES.index, number_of=None):
    """A data set; `label_of` a class's name is what its images show, `number_of` their label."""
    random = np.random.default_rng(seed)
    with DatasetWriter(path, class_names=names, rows_per_shard=17) as writer:
        for i in range(rows):
            number = i % len(names)
            image = stripes(label_of(names[number]), random)
            label = number_of(number) if number_of else number
            writer.write(image, label=label, source=f"{i}.png")
    return path


def write_model(path):
    """An untrained network as a SavedModel."""
    trunk = VGG16(width=1 / 16, resolution=RESOLUTION, fc=12, seed=7).built_at_resolution()
    export_saved_model(trunk, path, short_side=RESOLUTION)
    return path


def call(*arguments):
    """(exit code, stdout, stderr) of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()
