"""What the commands `clusters` and `assign` do, from flags to the table.

TensorFlow, which takes seconds to import, comes after all that can be refused without it.
"""

import os

from absl import logging

from dc_tf import atomic
from dc_tf.curation.tables import ENDINGS, check_table_path
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed import stop_request
from dc_tf.distributed.joined import joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError, DataError
from dc_tf.run_dir import RunDir


def write_clusters(output, format=None, workers=None, **which) -> dict | None:
    """Writes the table of a clustering; the workers that TF_CONFIG names share the images.

    Args:
        output: file.
        format: "parquet", "csv" or "json"; None goes by the ending of `output`.
        workers: processes that read images; None: one per core.
        which: run, stage, round_index, clusters and data, as of `open.open_clustering`.

    Returns:
        dict, as `table.write_cluster_table`.

    Raises:
        ConfigError, DataError, Preempted: as of these.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    output = _checked(output, format)
    with joined(f"--output={output}", output) as comm:
        return _write_clusters(output, workers, which, comm)


def _write_clusters(output, workers, which, comm):
    from dc_tf.curation.clusters.open import open_clustering, with_distances
    from dc_tf.curation.clusters.table import write_cluster_table
    from dc_tf.distributed.collective_errors import raise_on_all

    with raise_on_all(comm):
        clustering = open_clustering(**which)
    return write_cluster_table(with_distances(clustering, comm), output, workers, comm)


def write_run_table(workdir, workers=None) -> None:
    """Writes `clusters.parquet` of a run that has ended, unless its last clustering has one.

    A failure is a warning that names the command to repeat: the run itself is complete.
    """
    folder = RunDir(workdir)
    if not os.path.isdir(folder.clusterings) or _is_newer(folder.table, folder.clusterings):
        return
    from dc_tf.distributed.collectives import ALONE  # the workers that trained have left

    try:
        with stop_request.signals_handled():
            _write_clusters(folder.table, workers, {"run": folder.path}, ALONE)
    except (ConfigError, DataError, OSError) as error:
        logging.warning(
            "%s was not written: %s `dc_tf clusters --run=%s --output=%s` writes it.",
            *(folder.table, error, folder.path, folder.table),
        )


def _is_newer(path, folder):
    """Whether a file was written after the newest entry of a folder was made."""
    entries = [entry.stat().st_mtime for entry in os.scandir(folder)]
    return not entries or os.path.exists(path) and os.path.getmtime(path) >= max(entries)


def assign(data, output, format=None, **which) -> dict | None:
    """Assigns the images of a data set and writes the table; workers of TF_CONFIG share them.

    Args:
        data: data set folder.
        output, format: as of `write_clusters`.
        which: run, stage, round_index, clusters, features and column, as of `assign.assign_images`.

    Returns, raises: as `write_clusters`.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    output = _checked(output, format)
    if data is None:
        raise ConfigError("--data is missing; give the data set with the images to assign.")
    _check_asked(**which)
    dataset, scratch = Dataset.open(data), f"{output}.features"
    with joined(f"--output={output}", output) as comm:
        from dc_tf.curation.clusters.assign import assign_images
        from dc_tf.curation.clusters.table import write_cluster_table

        clustering = assign_images(dataset, scratch, comm=comm, **which)
        found = write_cluster_table(clustering, output, comm=comm)
        if comm.rank == 0:
            atomic.remove_tree(scratch)
    return found


def _check_asked(run=None, clusters=None, features=None, column=None, **_):
    if (run is None) == (clusters is None):
        raise ConfigError("give --run=RUN or --clusters=CLUSTERS, the clusters to assign to.")
    if run is not None and features is not None:
        raise ConfigError(
            "--features are of --clusters; --run computes the features of --data with its network."
        )
    if column is not None and features is None:
        raise ConfigError(f"--column={column} is of --features; give both, or none.")


def _checked(output, format):
    """The path to write to, with the ending of the format."""
    output = os.fspath(output)
    if format is not None:
        if f".{format}" not in ENDINGS:
            known = ", ".join(ending[1:] for ending in ENDINGS)
            raise ConfigError(f"--format={format} is not known; use one of {known}.")
        if not output.lower().endswith(f".{format}"):
            output = f"{output}.{format}"
    check_table_path(output)
    return output
