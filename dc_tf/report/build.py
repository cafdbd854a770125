"""Makes the report of a run, or of a clustering of embeddings.

make(run="/runs/mine", output="report.html")
make(clusters="CLUSTERS", data="/data/mine", output="report.html")
"""

import os

from absl import logging

from dc_tf import atomic
from dc_tf.curation.clusters.open import of_either, of_kmeans, of_run
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.task import require_alone
from dc_tf.errors import ConfigError
from dc_tf.report import content as content_lib
from dc_tf.report import page
from dc_tf.report.sections import copies, evaluations
from dc_tf.report.sections.about import warnings_of


def make(
    output: str,
    run: str | None = None,
    clusters: str | None = None,
    data: str | None = None,
    stage: str = "",
    round_index: int | None = None,
    compare=(),
    random_init: bool = False,
    evaluation_files=(),
    duplicates: str | None = None,
    sheets: int = 120,
    max_rows: int = 100_000,
    max_mb: float = page.CAP_MB,
    overwrite: bool = False,
) -> dict:
    """Writes the report.

    Args:
        output: path of the HTML file.
        run: folder of a run, or None.
        clusters: output of `dc_tf kmeans`, or None; one of the two is given.
        data: data set of the clusters, or of the run if it has moved.
        stage, round_index: which clustering of the run; the last one by default.
        compare: other runs or clusterings of the same data set.
        random_init: compare with clusters of an untrained network, if there are no more than
            `baseline.MOST_ROWS` images.
        evaluation_files: JSON results besides those in the folder of the run.
        duplicates: groups of near-duplicates, as `copies.read` takes them; None takes the newest
            output of `dc_tf duplicates` in the run folder.
        sheets: number of clusters whose images are shown.
        max_rows: images whose metadata is read.
        max_mb: size of the file.
        overwrite: replace a file that is no report.

    Returns:
        dict of report, bytes, rows, rows_read, clusters, clusters_shown and left_out (sentences).

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
    """
    require_alone("report")
    _check_source(run, clusters, data, stage, round_index, random_init)
    _check_numbers(sheets, max_rows, max_mb)
    _check_output(output, overwrite)
    opened = None if run is None else of_run(run, data, stage, round_index)
    dataset = opened.dataset if opened else Dataset.open(data)
    shown = opened.shown if opened else content_lib.measured(of_kmeans(clusters, dataset))
    others = [of_either(path, dataset) for path in compare]
    found = evaluations.find(opened and opened.folder.path, evaluation_files)
    duplicates = duplicates or copies.find(opened and opened.folder.path, dataset)
    found_copies = copies.read(duplicates, dataset.rows) if duplicates else None
    if random_init and opened and shown:
        others += _untrained(opened, shown)
    parts = content_lib.of_training(opened) if opened else content_lib.of_kmeans(shown)
    sample, read, of_clusters = content_lib.of_clusters(
        dataset, shown, opened, others, sheets, max_rows
    )
    warnings = [*parts.pop("warnings"), *warnings_of(dataset, read, found, parts)]
    content = {
        "title": _title(run or clusters),
        "kind": "run" if opened else "clustering",
        "dataset": dataset,
        "shown": shown,
        "sample": sample,
        "read": read,
        "evaluations": found,
        "network": content_lib.of_network(opened, stage) if opened else None,
        "warnings": warnings,
        "copies": found_copies,
        "copied": content_lib.of_copies(dataset, found_copies),
        **parts,
        **of_clusters,
    }
    text, left_out = page.fit(content, max_mb)
    atomic.write_file(output, lambda file: file.write(text))
    gallery = content["gallery"]
    return {
        "report": os.path.abspath(output),
        "bytes": len(text),
        "rows": dataset.rows,
        "rows_read": len(read.rows),
        "clusters": shown.count if shown else 0,
        "clusters_shown": len(gallery.cards) if gallery else 0,
        "left_out": left_out,
    }


def _untrained(run, shown):
    """The clustering of an untrained network, as a list; [] for many images."""
    from dc_tf.report.baseline import MOST_ROWS, untrained  # builds a network, which takes seconds

    found = untrained(run, shown)
    if found is None:
        logging.warning(
            "clusters of an untrained network are made of at most %d images; for more use dc_tf "
            "embed --random_init, dc_tf kmeans and --compare.",
            MOST_ROWS,
        )
        return []
    return [found]


def _title(path):
    """The last two names of a path: many runs are a folder `run` of something."""
    head, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.basename(head), name)


def _check_source(run, clusters, data, stage, round_index, random_init):
    if (run is None) == (clusters is None):
        both = ", not both" if run is not None else ""
        raise ConfigError(f"give --run=RUN, or --clusters=OUT with --data=DATA{both}.")
    if clusters is not None and (stage or round_index is not None or random_init):
        raise ConfigError("--stage, --round and --random_init are of a run; use them with --run.")
    if clusters is not None and data is None:
        raise ConfigError(
            f"--data is missing, and --clusters={clusters} does not record the data set; give the "
            "one that was embedded."
        )


def _check_numbers(sheets, max_rows, max_mb):
    if sheets < 0 or max_rows < 1:
        raise ConfigError(
            f"--sheets={sheets} and --max_rows={max_rows}; use at least 0 and at least 1."
        )
    if not 0 < max_mb <= page.CAP_MB:
        raise ConfigError(f"--max_mb={max_mb:g} is not a size; use a number up to {page.CAP_MB:g}.")


def _check_output(output, overwrite):
    folder = os.path.dirname(os.path.abspath(output))
    if os.path.isdir(output) or not os.access(folder, os.W_OK):
        raise ConfigError(
            f"--output={output} cannot be written; give the path of a file in a folder that is "
            "there."
        )
    if os.path.exists(output) and not overwrite and not page.is_report(output):
        raise ConfigError(
            f"--output={output} is there and is no report; use another, or --overwrite."
        )
