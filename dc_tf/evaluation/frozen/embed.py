"""Features of every image of a data set, as matrices in files.

    result = embed(subject, dataset, "/data/features", layers=("fc7",))
    # fc7-00000-of-00003.npy ... (rows, d); rows-00000-of-00003.npy ... (rows,) int64 row ids

A call that was stopped is gone on with: files that are there are whole, and are not made again.
"""

import dataclasses
import os
import re

import numpy as np

from dc_tf import atomic
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation import remembered
from dc_tf.evaluation.frozen.features import Extractor, parse_layers, storable
from dc_tf.evaluation.frozen.pooling import cell_average
from dc_tf.export.weights import weights_digest
from dc_tf.precision import AUTO, Choice, choose
from dc_tf.progress import Progress

DTYPES = ("float16", "float32")
ABOUT = "embed.json"
DEFAULT_LAYER = "fc7"  # which is clustered in training
_FILE = re.compile(r".+(-\d+-of-\d+\.npy)$")


def embed(
    subject,
    dataset,
    output,
    layers=("fc7",),
    cells=1,
    dtype="float32",
    batch_size=256,
    rows_per_file=1_000_000,
    max_bad_share=0.0,
) -> dict:
    """Writes the features of all rows.

    Args:
        subject: models.Subject.
        dataset: data.manifest.Dataset.
        output: folder; made if missing.
        layers: names of layers. Maps of convolutions are averaged over `cells` x `cells` parts; fc7
            is before ReLU, as it is clustered.
        dtype: of the files; in "float16" what is beyond its range is clipped.
        rows_per_file: rows of a file; so many are in memory at a time.
        max_bad_share: share of the rows that may be damaged.

    Returns:
        what `embed.json` says: where the features are from, `rows`, `files` of each layer, `dims`.

    Raises:
        ConfigError: the folder has features of something else.
        DataError: an image cannot be read.
        Preempted: the process was asked to stop.
    """
    if dtype not in DTYPES or min(cells, batch_size, rows_per_file) < 1:
        raise ConfigError(
            f"dtype is {dtype!r}, cells {cells}, batch_size {batch_size} and rows_per_file "
            f"{rows_per_file}; use {' or '.join(DTYPES)} and positive numbers."
        )
    extractor = Extractor(subject.trunk, {layer: cell_average(layer, cells) for layer in layers})
    # Whole batches: a row's last digits can depend on its neighbours.
    rows_per_file = -(-rows_per_file // batch_size) * batch_size
    starts = range(0, dataset.rows, rows_per_file)
    about = {
        "model": subject.name,
        "weights": weights_digest(subject.trunk),
        "data": dataset.fingerprint(),
        "rows": dataset.rows,
        "files": len(starts),
        "dims": extractor.dims,
        "cells": cells,
        "dtype": dtype,
        "short_side": subject.short_side,
        "compute_dtype": subject.compute_dtype,
        "batch_size": batch_size,
    }
    # The weights tell what the model is, not where it lies.
    path = os.path.join(output, ABOUT)
    atomic.refuse_foreign(path, about, "--output", "features", free=("model",))
    reader = FallbackRows(RowReader(dataset), max_bad_share)
    with data_errors(), Progress(dataset.rows, "embed", "images") as progress:
        for number, start in enumerate(starts):
            rows = np.arange(start, min(start + rows_per_file, dataset.rows))
            names = ("rows", *layers)
            paths = {name: _path(output, name, number, len(starts)) for name in names}
            if all(os.path.exists(path) for path in paths.values()):
                progress.skip(len(rows))
                continue
            batches = evaluation_batches(
                reader, rows, batch_size, subject.resolution, subject.short_side
            )
            found = _features(extractor, batches, len(rows), dtype, progress)
            for name, array in {**found, "rows": rows}.items():
                atomic.write_file(paths[name], lambda file, array=array: np.save(file, array))
    return about


def choose_layers(subject, output, cells) -> tuple[tuple[str, ...], str]:
    """The layers to embed where none was asked for, and a sentence that says why these.

    They are those whose features the folder has already, or the one that measured best, see
    `remembered`, or fc7.

    Args:
        subject: models.Subject, trained; its name is the path of the model.
        output: folder of features, which need not be there.
        cells: parts of a map, each way, as asked for.
    """
    path = os.path.join(output, ABOUT)
    if os.path.isfile(path):
        layers = parse_layers(atomic.read_json(path).get("dims", ()))
        return layers, f"layer {', '.join(layers)}: as in {output}"
    found = remembered.recommend(subject.name, weights_digest(subject.trunk))
    if found is None:
        return (DEFAULT_LAYER,), (
            f"layer {DEFAULT_LAYER}: the default, since none of this model has been measured; "
            f"dc_tf evaluate --task=knn --model={subject.name} --train=DATA --test=TEST finds the "
            "best one"
        )
    text = f"layer {found.layer}: {found.reason}"
    if found.layer != DEFAULT_LAYER and DEFAULT_LAYER in found.figures:
        share = 100 * found.figures[DEFAULT_LAYER]
        text += f"; {DEFAULT_LAYER} has {share:.1f} %, --layer={DEFAULT_LAYER} for that"
    if found.layer.startswith("conv") and found.cells not in (None, cells):
        text += f"; measured with --cells={found.cells}, which keeps where things are"
    return (found.layer,), text


def compute_dtype(output, asked) -> Choice:
    """The type of the network's products: what `asked` means, or what `output` was begun with."""
    about = os.path.join(output, ABOUT)
    if asked == AUTO and os.path.isfile(about):
        begun = atomic.read_json(about).get("compute_dtype")
        if begun:
            return Choice(asked, begun, reason="auto: as the features in --output began")
    return choose(asked, "convolution")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Whose features a file has.

    Attributes:
        data: the fingerprint of the data set.
        row_ids: (n,) int64, one for each row of the file.
    """

    data: str
    row_ids: np.ndarray


def origin(path) -> Origin | None:
    """What `embed` has left beside a file of features; None if it did not write the file.

    Raises:
        DataError: what it has left is damaged.
    """
    folder, name = os.path.split(path)
    match = _FILE.match(name)
    about = os.path.join(folder, ABOUT)
    rows = match and os.path.join(folder, f"rows{match[1]}")
    if not match or not os.path.isfile(about) or not os.path.isfile(rows):
        return None
    try:
        return Origin(atomic.read_json(about)["data"], np.load(rows, allow_pickle=False))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{rows} or {about} cannot be read: {error}") from error


def _features(extractor, batches, rows, dtype, progress) -> dict:
    """{layer: (rows, d) array} of some batches of images."""
    arrays = {layer: np.empty((rows, dim), dtype) for layer, dim in extractor.dims.items()}
    done = 0
    for batch in batches:
        count = len(batch["row"])
        for layer, vectors in extractor(batch["image"]).items():
            arrays[layer][done : done + count] = storable(vectors, dtype)
        done += count
        progress.update(count)
        stop_request.raise_if_requested("the files that are whole are kept")
    return arrays


def _path(output, name, number, count):
    return os.path.join(output, f"{name}-{number:05d}-of-{count:05d}.npy")
