"""Writes the features of every image of a data set to matrix files.

    result = embed(frozen, dataset, "/data/features", layers=("fc7",))
    # fc7-00000-of-00003.npy ... (rows, d); rows-00000-of-00003.npy ... (rows,) int64 row ids;
    # sources-00000-of-00003.jsonl ... the file that each row was made of
    arrays = embed_in_memory(frozen, dataset, layers=("fc7",))     # {"fc7": (rows, d)}

An interrupted call resumes: existing files are complete and are not written again.
"""

import dataclasses
import functools
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
from dc_tf.evaluation.frozen.features import cell_extractor, parse_layers, storable
from dc_tf.evaluation.frozen.sources import NamingReader, write_sources
from dc_tf.exporting.weights import weights_digest
from dc_tf.precision import AUTO, Choice, choose
from dc_tf.progress import Progress

DTYPES = ("float16", "float32")
ABOUT = "embed.json"
SOURCES = "sources"
_FILE = re.compile(r".+(-\d+-of-\d+\.npy)$")


def embed(
    frozen,
    dataset,
    output,
    layers=None,
    cells=1,
    dtype="float32",
    batch_size=256,
    rows_per_file=1_000_000,
    max_bad_share=0.0,
    mirror=False,
) -> dict:
    """Writes the features of all rows.

    Args:
        frozen: models.FrozenModel.
        dataset: data.manifest.Dataset.
        output: folder; created if missing.
        layers: names of layers; None for the one that is clustered. Maps are averaged over `cells`
            x `cells` cells; fc7 of VGG-16 is before ReLU, as in clustering.
        cells: number of cells along each side of a map.
        dtype: type of the files; "float16" clips values to its range.
        batch_size: images per batch.
        rows_per_file: rows per file; this many are in memory at a time.
        mirror: average the features of each image and of its mirror image.
        max_bad_share: largest share of rows that may be corrupt.

    Returns:
        The contents of `embed.json`: the origin of the features, `rows`, `files` per layer, `dims`.

    Raises:
        ConfigError: the folder has features of another model, data set or settings.
        DataError: an image cannot be read.
        Preempted: the process was asked to stop.
    """
    _check_numbers(dtype, cells=cells, batch_size=batch_size, rows_per_file=rows_per_file)
    layers = layers or (frozen.trunk.feature_layer,)
    extractor = cell_extractor(frozen.trunk, layers, cells, mirror=mirror)
    # Whole batches: a row's last digits can depend on its neighbours.
    rows_per_file = -(-rows_per_file // batch_size) * batch_size
    starts = range(0, dataset.rows, rows_per_file)
    about = {
        "model": frozen.name,
        "weights": weights_digest(frozen.trunk),
        "data": dataset.fingerprint(),
        "rows": dataset.rows,
        "files": len(starts),
        "dims": extractor.dims,
        "cells": cells,
        "dtype": dtype,
        "short_side": frozen.short_side,
        "compute_dtype": frozen.compute_dtype,
        "batch_size": batch_size,
    }
    if mirror:
        about["mirror"] = True
    # The weights identify the model, not its path.
    path = os.path.join(output, ABOUT)
    atomic.refuse_foreign(path, about, "--output", "features", free=("model",))
    records = NamingReader(dataset)
    reader = FallbackRows(records, max_bad_share)
    with data_errors(), Progress(dataset.rows, "embed", "images") as progress:
        for number, start in enumerate(starts):
            rows = np.arange(start, min(start + rows_per_file, dataset.rows))
            names = ("rows", SOURCES, *layers)
            paths = {name: _path(output, name, number, len(starts)) for name in names}
            if all(os.path.exists(path) for path in paths.values()):
                progress.skip(len(rows))
                continue
            batches = evaluation_batches(
                reader, rows, batch_size, frozen.resolution, frozen.short_side
            )
            found = _features(extractor, batches, len(rows), dtype, progress)
            for name, array in {**found, "rows": rows}.items():
                atomic.write_file(paths[name], lambda file, array=array: np.save(file, array))
            write = functools.partial(write_sources, rows=rows, reader=records, fallback=reader)
            atomic.write_file(paths[SOURCES], write)
            records.forget()
    return about


def embed_in_memory(
    frozen,
    dataset,
    layers=None,
    cells=1,
    dtype="float32",
    batch_size=256,
    max_bad_share=0.0,
    mirror=False,
) -> dict:
    """The features of all rows at once.

    Args:
        As of `embed`.

    Returns:
        {layer: (rows, d) array of `dtype`}, rows in the order of their ids.

    Raises:
        ConfigError, DataError, Preempted: as of `embed`.
    """
    _check_numbers(dtype, cells=cells, batch_size=batch_size)
    layers = layers or (frozen.trunk.feature_layer,)
    extractor = cell_extractor(frozen.trunk, layers, cells, mirror=mirror)
    reader = FallbackRows(RowReader(dataset), max_bad_share)
    rows = np.arange(dataset.rows)
    batches = evaluation_batches(reader, rows, batch_size, frozen.resolution, frozen.short_side)
    with data_errors(), Progress(dataset.rows, "embed", "images") as progress:
        return _features(extractor, batches, dataset.rows, dtype, progress)


def _check_numbers(dtype, **numbers):
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; use {' or '.join(DTYPES)}.")
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} is {number}; use a positive number.")


def choose_layers(frozen, output, cells) -> tuple[tuple[str, ...], str]:
    """The layers to embed where none was asked for, and a sentence that says why these.

    The layers already in the folder, else the best measured layer (see `remembered`), else
    the one that training clusters.

    Args:
        frozen: models.FrozenModel, trained; its name is the path of the model.
        output: folder of features, which need not be there; None without one.
        cells: parts of a map, each way, as asked for.
    """
    trunk = frozen.trunk
    default = trunk.feature_layer
    path = output and os.path.join(output, ABOUT)
    if path and os.path.isfile(path):
        layers = parse_layers(atomic.read_json(path).get("dims", ()), trunk.layer_names)
        return layers, f"layer {', '.join(layers)}: as in {output}"
    found = remembered.recommend(frozen.name, weights_digest(frozen.trunk))
    if found is None:
        return (default,), (
            f"layer {default}: the default, since no layer of this model has been measured; "
            f"dc_tf evaluate --task=knn --model={frozen.name} --train=DATA --test=TEST finds the "
            "best one"
        )
    text = f"layer {found.layer}: {found.reason}"
    if found.layer != default and default in found.metrics:
        share = 100 * found.metrics[default]
        text += f"; {default} has {share:.1f} %, --layer={default} selects it"
    if found.layer in trunk.map_names and found.cells not in (None, cells):
        text += f"; measured with --cells={found.cells}, which keeps the spatial layout"
    return (found.layer,), text


def compute_dtype(output, asked) -> Choice:
    """The type of the network's products: what `asked` means, or what `output` was begun with."""
    about = output and os.path.join(output, ABOUT)
    if asked == AUTO and about and os.path.isfile(about):
        begun = atomic.read_json(about).get("compute_dtype")
        if begun:
            return Choice(asked, begun, reason="auto: the type of the features in --output")
    return choose(asked, "convolution")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The data set and the rows that a file of features belongs to.

    Attributes:
        data: fingerprint of the data set.
        row_ids: (n,) int64, the row id of each row of the file.
    """

    data: str
    row_ids: np.ndarray


def origin(path) -> Origin | None:
    """The Origin that `embed` recorded beside a file of features; None if there is no record.

    Raises:
        DataError: the record is corrupt.
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
    """{layer: (rows, d) array} of batches with `rows` images in total."""
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
    ending = "jsonl" if name == SOURCES else "npy"
    return os.path.join(output, f"{name}-{number:05d}-of-{count:05d}.{ending}")
