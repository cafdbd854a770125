"""Finds copies in a collection and writes what was found, as `dc_tf duplicates` does.

    result = find_and_write(run="/runs/mine", output="COPIES")
    result = find_and_write(features="FEATURES", data="DATA", dry_run=True)    # writes nothing

Output folder:
    duplicates.parquet    a row for each image that has a copy (or duplicates.csv)
    keep.npy              ids of the rows that stay
    keep.jsonl            the same with their files, {"row": 7, "source": "dogs/rex.jpg"} a line
    kept/                 a view of them, a data set for every command
    gallery.html          pictures of groups
    duplicates.json       the result; written last
    work/                 what a restart and another threshold use again; may be removed
"""

import contextlib
import dataclasses
import os
import tempfile

import numpy as np

from dc_tf import atomic
from dc_tf.atomic import write_file, write_json
from dc_tf.curation.clusters.open import of_kmeans, of_run
from dc_tf.curation.duplicates import files as duplicate_files
from dc_tf.curation.duplicates.find import Settings, find_duplicates
from dc_tf.curation.features.open import open_features
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.joined import joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError
from dc_tf.evaluation.clusters.clusterings import is_kmeans
from dc_tf.paths import check_folder, expand
from dc_tf.run_dir import RunDir

# With `Trunk.copies_layer`, what finds copies best in benchmarks/results/duplicates.md.
CELLS = 2
FORMATS = ("parquet", "csv")
_RESULT, _SETTINGS = "duplicates.json", "settings.json"


def find_and_write(
    run=None,
    features=None,
    data=None,
    layer=None,
    clusters=None,
    output=None,
    dry_run=False,
    workers=None,
    format="parquet",
    groups=100,
    overwrite=False,
    column=None,
    **settings,
) -> dict | None:
    """Finds copies and writes tables, a view and a gallery; deletes nothing.

    The workers that TF_CONFIG names share the work; the chief writes.

    Args:
        run, features, data, column: as of `open_features`.
        layer: as there; of a run, None takes its network's `copies_layer` in `CELLS` x `CELLS`
            cells of images and their mirror images.
        clusters: run or output of `dc_tf kmeans` whose clusters are looked in; None makes some.
        output: folder; None only with `dry_run`.
        dry_run: only count; writes nothing but a run's features.
        workers: processes that decode images; None: one for each core.
        format: of the table, one of `FORMATS`.
        groups: number of groups in the gallery.
        overwrite: replace a result with other settings.
        settings: fields of `Settings`.

    Returns:
        dict of `duplicate_files.summary`, with `output` and `dry_run`; None on workers other than
        the chief.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: corrupt data or features.
        Preempted: the process was asked to stop; what is done is kept in the output folder.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    settings = Settings(**settings)
    output = output and expand(output)
    _check(output, dry_run, format, groups)
    with contextlib.ExitStack() as stack:
        comm = stack.enter_context(joined(f"--output={output}", output or ""))
        if run is not None and layer is None and column is None:
            layer = _copies_layer(run)
            opened = open_features(run, features, data, layer, CELLS, mirror=True, comm=comm)
        else:
            opened = open_features(run, features, data, layer, comm=comm, column=column)
        with raise_on_all(comm):
            given = None if clusters is None else _labels(clusters, opened)
            if dry_run:
                work = stack.enter_context(tempfile.TemporaryDirectory(prefix="dc_tf-duplicates-"))
            else:
                work = os.path.join(output, "work")
                if comm.rank == 0:
                    owner = _owner(opened, settings, clusters, format)
                    stack.enter_context(_claimed(output, owner, overwrite))
        found = find_duplicates(opened, settings, work, given, workers, comm)
        if found is None:
            return None
        statistics = duplicate_files.summary(found, opened.rows, settings.threshold)
        if not dry_run:
            _write(found, opened, statistics, settings, output, format, groups)
    return {**statistics, "dry_run": dry_run, "output": None if dry_run else output}


def _copies_layer(run):
    """That of its network; None of a folder that is no run, which `open_features` refuses."""
    from dc_tf.evaluation.models import network_class  # which imports TensorFlow

    if not os.path.isfile(RunDir(expand(run)).config):
        return None
    return network_class(expand(run)).copies_layer


def as_text(result) -> str:
    """What was found, for people."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in result["by_kind"].items())
    lines = [
        f"{result['would_go']:,} of {result['rows']:,} images ({100 * result['share']:.1f} %) "
        f"would go: {kinds}; {result['groups']:,} groups keep one each"
    ]
    if result["below_threshold"]:
        lines.append(
            f"{result['below_threshold']:,} of them are copies of copies, below the threshold with "
            "the one that stays; see them in the table before anything is removed"
        )
    if result["corrupt"]:
        lines.append(f"{result['corrupt']:,} images are corrupt and were not compared")
    written = "dry run: nothing was written" if result["dry_run"] else f"in {result['output']}"
    return "\n".join([*lines, f"nothing was deleted; {written}"])


class _Labels:
    """The cluster of each row, computed for the rows that are asked for."""

    def __init__(self, clustering):
        self._clustering = clustering

    def __getitem__(self, rows):
        return self._clustering.flat(rows)


def _labels(clusters, features):
    """(labels, number of clusters) of a run or of `dc_tf kmeans`.

    Raises:
        ConfigError: no clustering of these rows.
    """
    if features.dataset is None:
        return _labels_of_file(clusters, features.rows)
    if is_kmeans(clusters):
        clustering = of_kmeans(clusters, features.dataset)
    elif os.path.isfile(RunDir(clusters).config):
        clustering = of_run(clusters, features.dataset.path).shown
    else:
        raise ConfigError(
            f"--clusters={clusters} is neither a run nor the --output of a `dc_tf kmeans` that has "
            "finished; give one of these."
        )
    if clustering is None:
        raise ConfigError(f"--clusters={clusters} is a run that has no clustering yet.")
    return _Labels(clustering), clustering.count


def _labels_of_file(clusters, rows):
    path = os.path.join(os.path.expanduser(clusters), "assignments.npy")
    if not is_kmeans(clusters) or not os.path.isfile(path):
        raise ConfigError(
            f"--clusters={clusters} is not the output of `dc_tf kmeans`; clusters of a run need "
            "its data set as --data."
        )
    labels = np.load(path, mmap_mode="r")
    if len(labels) != rows:
        raise ConfigError(f"--clusters={clusters} has {len(labels)} rows, the features {rows}.")
    return labels, int(labels.max()) + 1


def _check(output, dry_run, format, groups):
    if output is None and not dry_run:
        raise ConfigError("give --output=FOLDER, or --dry_run to count only.")
    if output is not None:
        check_folder(output, "--output")
        _check_strangers(output)
    if format not in FORMATS:
        raise ConfigError(f"--format={format}; use {' or '.join(FORMATS)}.")
    if groups < 0:
        raise ConfigError(f"--groups={groups}; use 0 or more.")
    size = task_from_environment().size
    if size > 1 and dry_run:
        raise ConfigError(
            f"TF_CONFIG names {size} workers, and --dry_run writes nothing that they could share; "
            "give --output=FOLDER in its place, or start one worker."
        )


def _check_strangers(output):
    """Refuses a folder of something else before anything is embedded."""
    held = os.listdir(output) if os.path.isdir(output) else []
    if held and _SETTINGS not in held:
        raise ConfigError(f"{output} holds other files; use another --output.")


def _owner(features, settings, clusters, format):
    return {
        "features": features.fingerprint(),
        "data": features.dataset and features.dataset.fingerprint(),
        "clusters": clusters,
        "format": format,
        **dataclasses.asdict(settings),
    }


@contextlib.contextmanager
def _claimed(output, owner, overwrite):
    """Makes the output folder that of this search; no other process works there meanwhile."""
    path = os.path.join(output, _SETTINGS)
    if overwrite and os.path.isfile(path):
        write_json(path, owner)
    atomic.refuse_foreign(path, owner, "--output", "duplicates (--overwrite replaces them)")
    with atomic.locked(os.path.join(output, "lock"), f"--output={output}"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(output, _RESULT))  # from here on it is not complete
        yield


def _write(found, features, statistics, settings, output, format, groups):
    dataset, keep = features.dataset, os.path.join(output, "keep.npy")
    kept = os.path.join(output, "kept") if dataset is not None else None
    duplicate_files.write_table(found, features, os.path.join(output, f"duplicates.{format}"))
    duplicate_files.write_keep(found, features.rows, keep)
    if dataset is not None:
        duplicate_files.write_kept_view(found, dataset, keep, kept, dataclasses.asdict(settings))
        from dc_tf.report.duplicates.page import gallery  # which a dry run does not need

        page = gallery(found, dataset, statistics, groups)
        write_file(os.path.join(output, "gallery.html"), lambda file: file.write(page))
    duplicate_files.write_names(features, keep, os.path.join(output, "keep.jsonl"), kept)
    write_json(os.path.join(output, _RESULT), {**statistics, **dataclasses.asdict(settings)})
