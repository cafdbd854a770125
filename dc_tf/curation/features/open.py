"""Opens the features of a collection as one matrix by row id, wherever they come from.

    features = open_features(run="/runs/mine")                       # of the run's own network
    features = open_features(features="FEATURES", data="DATA")       # output of `dc_tf embed`
    features = open_features(features="vectors/*.npy", data="DATA")  # vectors of any origin
    features.read(0, 4096), features.take([7, 3])

Row i belongs to the image with row id i of the data set. Opening reads headers only; rows are read
from the files when they are asked for, so memory does not depend on their number.
"""

from dc_tf.clustering.store.feature_files import Features, open_given
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError
from dc_tf.paths import expand

__all__ = ["Features", "for_run", "open_features"]


def open_features(
    run=None,
    features=None,
    data=None,
    layer=None,
    cells=1,
    mirror=False,
    comm=None,
    column=None,
) -> Features:
    """Opens the features that the flags --run, --features, --column, --data and --layer mean.

    Args:
        run: run folder; its own network's features over its data set are made if they are missing
            (`run_features.for_run`).
        features: output folder of `dc_tf embed`; a `.npy`, `.npz`, Parquet or Arrow file, a pattern
            or several files with commas between them; or a list of files.
        data: data set of the features: needed by all that looks at images. With `run` only where
            the run's data set was moved.
        layer: of a run or a folder with several; None takes the only one, or the run's best.
        cells: of a run: feature maps are averaged over `cells` x `cells` cells.
        mirror: of a run: average the features of each image and of its mirror image.
        comm: Communicator of the workers that make a run's features together; None is this one.
        column: of tables and archives, as of `dc_tf kmeans`; None: the only one with vectors.

    Raises:
        ConfigError: not exactly one of `run` and `features`, or they cannot be used.
        DataError: a corrupt data set, run or file.
    """
    if (run is None) == (features is None):
        raise ConfigError(
            "give --run=RUN, or --features=FEATURES with --data=DATA"
            + (", not both of --run and --features." if run is not None else ".")
        )
    if run is not None and column is not None:
        raise ConfigError(f"--column={column} is of files of --features; leave it out with --run.")
    if run is not None:
        from dc_tf.curation.features import run_features  # which imports TensorFlow

        return run_features.for_run(run, layer, data, cells, mirror, comm)
    dataset = None if data is None else _open_dataset(data)
    return open_given(features, dataset, layer, column)


def for_run(run, layer=None, data=None, cells=1) -> Features:
    """Features of a run's own network over its data set, made if they are missing or outdated.

    See `run_features.for_run`.
    """
    return open_features(run=run, layer=layer, data=data, cells=cells)


def _open_dataset(data):
    try:
        return data if isinstance(data, Dataset) else Dataset.open(expand(data))
    except DataError as error:
        raise ConfigError(f"--data: {error}") from error
