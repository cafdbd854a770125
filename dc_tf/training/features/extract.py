"""Extracts the features of a worker's own rows to its own disk, and whitens them.

    store, moments = extract(trunk, reader, experiment, stage, scratch, cluster)
    store, whitening = whiten(store, moments, stage, scratch, cluster.world)

Extraction accumulates the moments while it stores rows, so whitening reads the rows once. Both
resume from `scratch` after a crash: from the last batch on disk, and from the last whitened block.
Moments are not saved; those of rows stored before the crash are recomputed, bit for bit.
"""

import contextlib
import os
import time
import zipfile

import numpy as np
from absl import logging

from dc_tf import atomic
from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.whitening import Moments, Whitening, whiten_store
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage import schema
from dc_tf.data.storage.reader import data_errors
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collectives import all_agree, all_gather
from dc_tf.errors import DataError
from dc_tf.nn.projection import clustered_features
from dc_tf.progress import Progress


def extract(
    trunk, reader, experiment, stage, scratch, cluster, projection=None
) -> tuple[FeatureStore, Moments | None]:
    """Writes the features of this worker's rows; resumes from `scratch`.

    Args:
        trunk, reader, experiment, stage, scratch, cluster, projection: as in `reassign.reassign`.

    Returns:
        the complete store and the moments of its rows. Moments are None without whitening, and if
        an earlier process had stored all rows, which may have been whitened since.

    Raises:
        DataError: an image cannot be read, features are not finite, or the disk is too small for
            the features of all rows.
        Preempted: on this worker, when it was asked to stop; the features so far are on disk.
    """
    dim = stage.feature_dim(trunk.feature_dim)
    store = raw_store(dim, reader, stage, scratch, cluster)
    done, moments = store.written, None
    if done < store.rows:
        # Whole batches from the first row, since rounding of a row can depend on its batch.
        done -= done % stage.clustering.batch_size
        moments = Moments.of(store, done) if stage.clustering.whiten else None
    forward = clustered_features(trunk, projection)
    flushed = time.monotonic()
    chief = cluster.is_chief
    shown = Progress(store.rows, "extract", "images", enabled=chief, done=done)
    with shown as progress, data_errors():
        for batch in _batches(reader, experiment, stage, store, done):
            features = forward(batch["image"]).numpy()
            _check_finite(features, reader, store.first_row + done)
            stored = store.write(done, features)
            if moments:
                moments.update(stored)
            done += len(features)
            progress.update(len(features))
            if stop_request.requested():
                store.flush()
                stop_request.raise_if_requested(f"{done} images of this worker are extracted")
            if time.monotonic() - flushed >= stage.clustering.save_every_s:
                store.flush()
                flushed = time.monotonic()
    store.flush()
    return store, moments


def raw_store(dim, reader, stage, scratch, cluster) -> FeatureStore:
    """The store of this worker's features: the one of an earlier process, or a new one.

    Args:
        dim: length of the features.
        reader, stage, scratch, cluster: as of `extract`.

    Raises:
        DataError: the disk is too small for the features of all rows.
    """
    path = os.path.join(scratch, "raw")
    try:
        return FeatureStore.open(path)
    except DataError:
        atomic.remove_tree(path)
    rows = row_block(reader.dataset.rows, cluster.rank, cluster.size)
    dtype = stage.clustering.store_dtype
    white = stage.clustering.whitening_dim or dim
    if white != dim:
        # Allocates the disk space now, so that a full disk is found before extraction, not after.
        FeatureStore.create(_white_path(scratch), len(rows), white, rows.start, dtype)
    return FeatureStore.create(path, len(rows), dim, rows.start, dtype)


def whiten(store, moments, stage, scratch, world) -> tuple[FeatureStore, Whitening | None]:
    """Whitens the rows of a store, if the stage does; resumes from `scratch`.

    Args:
        store, moments: as returned by `extract`.
        stage: experiment.Stage.
        scratch: folder of this worker.
        world: Communicator of all workers.

    Returns:
        the store of whitened rows, (rows, whitening_dim or all), and the map; without whitening
        the same store and None.

    Raises:
        DataError: on all workers, when all rows are equal.
    """
    if not stage.clustering.whiten:
        return store, None
    dim = stage.clustering.whitening_dim or store.dim
    path = os.path.join(scratch, "whitening.npz")
    kept = _kept_whitening(path)
    whitening = _broadcast_whitening(kept, (store.dim, dim), world)
    if whitening is None:
        _check_not_mapped(store, world)
        whitening = Whitening.fit(moments or Moments.of(store), world, dim)
    if kept is None:
        whitening.save(path)  # before rows are mapped in place
    path = None if dim == store.dim else _white_path(scratch)
    return whiten_store(store, whitening, path), whitening


def _check_finite(features, reader, first_row):
    """DataError that names the first image whose features are not finite."""
    finite = np.isfinite(features).all(axis=1)
    if finite.all():
        return
    row = first_row + int(np.argmin(finite))
    raise DataError(
        f"features of {_place_of(reader, row)} are not finite; lower the learning rate if the "
        "network has diverged, or look at the image."
    )


def _place_of(reader, row):
    """Names a row, with the source of its image if its record can be read."""
    place = reader.dataset.describe(row)
    with contextlib.suppress(ValueError):
        example = schema.decode_example(reader.read([row], b"")[0], reader.dataset.features)
        place += f", {example['source']}" if example["source"] else ""
    return place


def _batches(reader, experiment, stage, store, done):
    """Batches of the images of this worker's rows, from row `done` of them on."""
    if done == store.rows:
        return ()
    resolution = experiment.model.resolution
    return evaluation_batches(
        reader,
        range(store.first_row + done, store.first_row + store.rows),
        stage.clustering.batch_size,
        resolution,
        experiment.data.resize or round(resolution * 256 / 224),
        threads=experiment.threads or None,
    )


def _white_path(scratch):
    return os.path.join(scratch, "white")


def _kept_whitening(path):
    """The whitening that this worker has saved, or None."""
    try:
        return Whitening.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s is corrupt and is not used: %r", path, error)
        return None


def _broadcast_whitening(kept, shape, world):
    """The whitening that some worker has saved, on all workers; None without."""
    holders = np.flatnonzero(all_gather(kept is not None, world))
    if not holders.size:
        return None
    kept = kept or Whitening(np.zeros(shape[0], np.float32), np.zeros(shape, np.float32))
    root = int(holders[0])
    parts = (world.broadcast(part, root).numpy() for part in (kept.mean, kept.basis))
    return Whitening(*parts)


def _check_not_mapped(store, world):
    if not all_agree(not store.made_by, world):
        raise DataError(
            f"the features were whitened in place and the map is lost; remove {store.path} on "
            "every worker, so that they are extracted again."
        )
