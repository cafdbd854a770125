"""Writes the features of every image of a data set to matrix files.

    result = embed(frozen, dataset, "/data/features", layers=("fc7",))
    # fc7-00000-of-00003.npy ... (rows, d); rows-00000-of-00003.npy ... (rows,) int64 row ids;
    # sources-00000-of-00003.jsonl ... the file that each row was made of
    arrays = embed_in_memory(frozen, dataset, layers=("fc7",))     # {"fc7": (rows, d)}

Several workers share the rows, and write what one would. An interrupted call resumes: the parts of
files that are there are complete and are not computed again (`feature_parts`).
"""

import functools
import itertools
import os

import numpy as np

from dc_tf import atomic
from dc_tf import experiment as experiment_lib
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.data.storage.row_sources import sources_of
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE, all_gather
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation import remembered
from dc_tf.evaluation.frozen.feature_parts import SOURCES, FeatureFiles
from dc_tf.evaluation.frozen.features import cell_extractor, parse_layers, storable
from dc_tf.evaluation.frozen.origin import ABOUT
from dc_tf.evaluation.frozen.sources import NamingReader, write_used_sources
from dc_tf.precision import AUTO, Choice, choose
from dc_tf.progress import Progress
from dc_tf.run_dir import RunDir

DTYPES = ("float16", "float32")
_PLANNED = 1 << 20  # rows of one pipeline, which holds some numbers of each


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
    comm=None,
) -> dict:
    """Writes the features of all rows.

    Args:
        frozen: models.FrozenModel.
        dataset: storage.manifest.Dataset.
        output: folder; created if missing.
        layers: names of layers; None for the one that is clustered. Maps are averaged over `cells`
            x `cells` cells; fc7 of VGG-16 is before ReLU, as in clustering.
        cells: number of cells along each side of a map.
        dtype: type of the files; "float16" clips values to its range.
        batch_size: images per batch.
        rows_per_file: rows per file.
        mirror: average the features of each image and of its mirror image.
        max_bad_share: largest share of rows that may be corrupt.
        comm: Communicator of the workers that share the rows; None is this one alone.

    Returns:
        The contents of `embed.json`: the origin of the features, `rows`, `files` per layer, `dims`.

    Raises:
        ConfigError: the folder has features of another model, data set or settings.
        DataError: an image cannot be read.
        Preempted: the process was asked to stop.
    """
    comm = comm or ALONE
    _check_numbers(dtype, cells=cells, batch_size=batch_size, rows_per_file=rows_per_file)
    layers = layers or (frozen.trunk.feature_layer,)
    extractor = cell_extractor(frozen.trunk, layers, cells, mirror=mirror)
    rows_per_file = -(-rows_per_file // batch_size) * batch_size
    itemsize = np.dtype(dtype).itemsize
    files = FeatureFiles(output, extractor.dims, dataset.rows, rows_per_file, batch_size, itemsize)
    about = {
        **_origin(frozen, dataset),
        "rows": dataset.rows,
        "files": files.count,
        "dims": extractor.dims,
        "cells": cells,
        "dtype": dtype,
        "batch_size": batch_size,
    }
    if mirror:
        about["mirror"] = True
    with raise_on_all(comm):
        if comm.rank == 0:
            _claim(output, files, about)
    fallback = FallbackRows(NamingReader(dataset), max_bad_share)
    missing = files.missing(comm)
    own = row_block(len(missing), comm.rank, comm.size)
    own = missing[own.start : own.stop]
    with raise_on_all(comm):
        _write_parts(files, missing, own, extractor, frozen, fallback, dtype, comm)
    _check_corrupt(fallback, [files.parts[number] for number in own], comm)
    unfinished = files.unfinished(comm)  # those with parts of several workers
    with raise_on_all(comm):
        for number in unfinished[comm.rank :: comm.size]:
            files.join(number)
    comm.barrier()
    if comm.rank == 0:
        atomic.remove_tree(files.folder)
    return about


def _origin(frozen, dataset):
    """What `embed.json` says of network and data set."""
    about = {
        "model": frozen.name,
        "weights": frozen.weights,
        "data": dataset.fingerprint(),
        "short_side": frozen.short_side,
        "compute_dtype": frozen.compute_dtype,
    }
    if not frozen.is_ours:
        about["network"] = {"kind": frozen.trunk.kind, **frozen.trunk.settings}
    return about


def _claim(output, files, about):
    """Makes the output folder that of these features, and that of its parts."""
    # The weights identify the model, not its path.
    path = os.path.join(output, ABOUT)
    atomic.refuse_foreign(path, about, "--output", "features", free=("model",))
    if files.unfinished(ALONE).size:
        atomic.reset_foreign(os.path.join(files.folder, "owner.json"), about | {"model": None})


def _write_parts(files, missing, own, extractor, frozen, fallback, dtype, comm):
    """Writes this worker's parts, and the files that need no others."""
    spans = [files.parts[number] for number in own]
    if not spans:
        return
    completes = files.completed_by(missing, own)
    batches = _batches(fallback, spans, files.batch_size, frozen)
    done = fallback.dataset.rows - files.rows_of_parts(missing)
    total = done + files.rows_of_parts(own)
    shown = Progress(total, "embed", "images", enabled=comm.rank == 0, done=done)
    with data_errors(), shown as progress:
        for number, (start, end) in zip(own.tolist(), spans, strict=True):
            some = itertools.islice(batches, -(-(end - start) // files.batch_size))
            found = _features(extractor, some, end - start, dtype, progress)
            paths = files.paths_of_part(number)
            for name, array in found.items():
                atomic.write_file(paths[name], lambda file, array=array: np.save(file, array))
            write = functools.partial(write_used_sources, rows=range(start, end), fallback=fallback)
            atomic.write_file(paths[SOURCES], write)
            fallback.reader.forget(range(start, end))
            if number in completes:
                files.join(completes[number])


def _batches(reader, spans, batch_size, frozen):
    """Yields the batches of all spans; few pipelines read ahead over the ends of parts."""
    size, short_side = frozen.resolution, frozen.short_side
    while spans:
        last = spans[0][0] + _PLANNED
        group = spans[: max(1, sum(end <= last for _, end in spans))]
        rows = np.concatenate([np.arange(*span) for span in group])
        how = {"interpolation": frozen.interpolation}
        yield from evaluation_batches(reader, rows, batch_size, size, short_side, **how)
        spans = spans[len(group) :]


def _check_corrupt(fallback, spans, comm):
    """Refuses more corrupt rows than are allowed, of all workers.

    Raises:
        DataErrorOnAll: there are.
    """
    if comm.size == 1:
        return  # `fallback` has counted all
    rows = fallback.rows()
    own = sum(int(np.count_nonzero((rows >= start) & (rows < end))) for start, end in spans)
    found = int(all_gather(own, comm).sum())
    with raise_on_all(comm):
        if found > fallback.allowed:
            raise DataError(
                f"{found} of {fallback.dataset.rows} rows are corrupt, more than --max_bad_share="
                f"{fallback.max_share:g} allows; list them with `dc_tf inspect "
                f"{fallback.dataset.path} --verify` and restore them, or raise --max_bad_share."
            )


def embed_in_memory(
    frozen,
    dataset,
    layers=None,
    cells=1,
    dtype="float32",
    batch_size=256,
    max_bad_share=0.0,
    mirror=False,
    sources=None,
) -> dict:
    """The features of all rows at once.

    Args:
        As of `embed`, and
        sources: list that gets the file that each row was made of; None for none.

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
    crop, how = (frozen.resolution, frozen.short_side), {"interpolation": frozen.interpolation}
    batches = evaluation_batches(reader, rows, batch_size, *crop, **how)
    with data_errors(), Progress(dataset.rows, "embed", "images") as progress:
        found = _features(extractor, batches, dataset.rows, dtype, progress)
    if sources is not None:
        sources += sources_of(dataset, [reader.replacement(row) for row in rows.tolist()])
    return found


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
    begun = layers_in(output)
    if begun:
        layers = parse_layers(begun, trunk.layer_names)
        return layers, f"layer {', '.join(layers)}: as in {output}"
    found = remembered.recommend(frozen.name, frozen.weights)
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


def layers_in(output) -> tuple[str, ...]:
    """The layers of which an output folder has features, complete or not; () if there are none."""
    path = output and os.path.join(output, ABOUT)
    return tuple(atomic.read_json(path).get("dims", ())) if path and os.path.isfile(path) else ()


def compute_dtype(output, asked, comm=ALONE, model=None) -> Choice:
    """The type of the network's products, the same on all workers of `comm`.

    Args:
        output: output folder, or None; what it was begun with is kept.
        asked: "auto", "float32" or "bfloat16".
        comm: of the workers.
        model: path of the network, or None. "auto" means a run's own type, so that features do not
            depend on a measurement, unless that is bfloat16 and slower here.
    """
    if asked != AUTO:
        return choose(asked, "convolution", comm=comm)
    with raise_on_all(comm):
        begun, own = _begun_dtype(output), _run_dtype(model)
    if begun:
        return Choice(asked, begun, reason="auto: the type of the features in --output")
    choice = None if own == "float32" else choose(asked, "convolution", comm=comm)
    if own == "float32" or own == "bfloat16" and choice.speed is not None and choice.speed >= 1:
        return Choice(asked, own, reason="auto: the type of the run")
    return choice


def _begun_dtype(output) -> str | None:
    about = output and os.path.join(output, ABOUT)
    return atomic.read_json(about).get("compute_dtype") if about and os.path.isfile(about) else None


def _run_dtype(model) -> str | None:
    path = model and RunDir(model).config
    if not path or not os.path.isfile(path):
        return None
    return experiment_lib.load([path]).model.compute_dtype


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
        stop_request.raise_if_requested("the parts that are complete are kept")
    return arrays
