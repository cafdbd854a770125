"""Makes the report of a run, or of a clustering of embeddings.

    make(run="/runs/mine", output="report.html")
    make(clusters="CLUSTERS", data="/data/mine", output="report.html")

Reads a bounded number of rows (`sample`), makes one pass over the assignments of all rows for each
figure that needs it, and thumbnails of the rows that are shown.
"""

import os

import numpy as np
from absl import logging

from dc_tf import atomic
from dc_tf.atomic import read_json
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import CorruptRow, RowReader
from dc_tf.errors import ConfigError, DataError
from dc_tf.report import about, clusters, colours, curves, evaluations, page, source
from dc_tf.report import columns as columns_lib
from dc_tf.report import sample as sample_lib
from dc_tf.report.agreement import Agreement
from dc_tf.report.filters import filter_sheets, sobel_sheets
from dc_tf.report.gallery import Gallery
from dc_tf.report.tail import Tail

COLOURED = 20_000  # images that are decoded for their mean colour
_PER_CLUSTER = 20  # of them in each cluster
_MOST_ROUNDS = 24  # that are compared with labels and metadata
_CELLS = 1 << 31  # rows x rounds that are read for it


def make(
    output: str,
    run: str | None = None,
    clusters: str | None = None,
    data: str | None = None,
    stage: str = "",
    round_index: int | None = None,
    compare=(),
    evaluation_files=(),
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
        evaluation_files: JSON results besides those in the folder of the run.
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
    _check(output, run, clusters, data, max_mb, overwrite)
    if run is not None:
        opened = source.of_run(run, data, stage, round_index)
        dataset, shown = opened.dataset, opened.shown
    else:
        opened, dataset = None, Dataset.open(data)
        shown = source.of_kmeans(clusters, dataset)
    others = [source.of_either(path, dataset) for path in compare]
    found = evaluations.find(opened and opened.folder.path, evaluation_files)
    parts = _training(opened) if opened else _clustering(shown)
    sample, read, clustered = _clusters(dataset, shown, opened, others, sheets, max_rows)
    log = parts.get("log")
    content = {
        "title": _title(run or clusters),
        "kind": "run" if opened else "clustering",
        "dataset": dataset,
        "shown": shown,
        "evaluations": found,
        "figure8": _figure8(opened, dataset, stage) if opened else None,
        "read": read,
        "sample": sample,
        "versions": {**found.versions, **about.versions()},
        "warnings": [
            *parts.pop("warnings"),
            *about.warnings_of(
                dataset, log, found, read.corrupt, len(read.rows), parts.get("failed_step")
            ),
        ],
        **parts,
        **clustered,
    }
    text, left_out = page.fit(content, max_mb)
    atomic.write_file(output, lambda file: file.write(text))
    return {
        "report": os.path.abspath(output),
        "bytes": len(text),
        "rows": dataset.rows,
        "rows_read": len(read.rows),
        "clusters": shown.count if shown else 0,
        "clusters_shown": len(content["gallery"].cards) if shown else 0,
        "left_out": left_out,
    }


def _title(path):
    """The last two names of a path: many runs are a folder `run` of something."""
    head, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.basename(head), name)


def _check(output, run, clusters, data, max_mb, overwrite):
    if (run is None) == (clusters is None):
        raise ConfigError("name one of --run=RUN and --clusters=OUT, what the report is about.")
    if clusters is not None and data is None:
        raise ConfigError(
            f"--data is missing, and --clusters={clusters} does not record the data set; give the "
            "one that was embedded."
        )
    if not 0 < max_mb <= page.CAP_MB:
        raise ConfigError(f"max_mb is {max_mb:g}; use a number up to {page.CAP_MB:g}.")
    folder = os.path.dirname(os.path.abspath(output))
    if os.path.isdir(output) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(
            f"--output={output} cannot be written; give the path of a file in a folder that is "
            "there."
        )
    if os.path.exists(output) and not overwrite and not page.is_report(output):
        raise ConfigError(
            f"--output={output} is there and is no report; use another, or --overwrite."
        )


def _training(run):
    """Curves and facts of a run."""
    log = curves.Log.read(run.folder.metrics)
    stages = run.experiment.stages
    steps, clustering = curves.seconds(log, [stage.batch_size for stage in stages])
    failed = run.folder.failed_step
    finished = os.path.exists(run.folder.result)
    return {
        "log": log,
        "charts_of_training": curves.charts_of(log, [stage.name for stage in stages]),
        "seconds": {"training": steps, "clustering": clustering},
        "settings": run.experiment,
        "objective": None,
        "result": read_json(run.folder.result) if finished else {},
        "failed_step": read_json(failed) if os.path.exists(failed) else None,
        "warnings": [] if finished else ["The run has not finished; this is how far it is."],
    }


def _clustering(shown):
    """Facts and objective of a clustering of embeddings."""
    made = read_json(os.path.join(shown.path, "clustering.json"))
    return {
        "charts_of_training": curves.objective_charts(made.get("objective") or ()),
        "seconds": {"clustering": made.get("seconds") or 0.0},
        "settings": None,
        "made": made,
        "result": {},
        "warnings": [text for text in made.get("warnings") or () if isinstance(text, str)],
    }


def _clusters(dataset, shown, run, others, sheets, max_rows):
    """(Sample, columns.Found, what is shown of the clusters)."""
    if shown is None:
        sample = sample_lib.spread_only(dataset, max_rows)
        read = columns_lib.read(dataset, sample.rows, sample.rows[:0])
        nothing = dict.fromkeys(("agreement", "gallery", "colours", "tail", "rounds"))
        return sample, read, nothing
    sizes = shown.sizes()
    sample = sample_lib.choose(shown, sizes, max_rows)
    read = columns_lib.read(dataset, sample.rows, _coloured(shown, sample))
    figures = clusters.distance_figures(shown)
    own = colours.Colours(shown.flat(sample.rows), read.colours)
    described = clusters.describe(shown, sizes, sample, read, figures, own)
    agreement, compared = _compared(shown, run, others, sample, read, own)
    gallery = Gallery(shown, described, clusters.select(described, read.columns), figures, sheets)
    return (
        sample,
        read,
        {
            "agreement": agreement,
            "gallery": gallery,
            "colours": colours.Section(compared, described),
            "tail": Tail(shown, sizes, described, read.columns),
            "rounds": len(run.rounds) if run else None,
        },
    )


def _coloured(shown, sample):
    """The rows whose mean colour is computed: all of few, else some of each of many clusters."""
    if sample.whole and len(sample.rows) <= COLOURED:
        return sample.rows
    some = np.random.default_rng(0).permutation(sample.clusters)[: COLOURED // _PER_CLUSTER]
    keys = sample_lib.at_random(0)  # of those that are read, where not all are
    drawn = sample_lib.least_of_each(shown, some, _PER_CLUSTER, keys)
    return np.concatenate([*drawn.values()])


def _compared(shown, run, others, sample, read, own):
    """(Agreement of rounds and others, [(name, sorted deviations of colour)])."""
    spread = sample.rows[sample.spread]
    columns = {
        name: column.rarest(len(sample.rows))[sample.spread]
        for name, column in read.columns.items()
    }
    agreement = Agreement(spread, columns)
    deviations = [(shown.name, own.sorted_deviations())]

    def add_colours(clustering, name):
        if sample.whole:
            other = colours.Colours(clustering.flat(sample.rows), read.colours)
            deviations.append((name, other.sorted_deviations()))

    rounds = _some_rounds(run, shown.dataset.rows) if run else []
    one_stage = len({one.stage for one in rounds}) == 1
    for one in rounds:
        clustering = source.open_round(run, one)
        tick = str(one.round) if one_stage else f"{one.stage}.{one.round}"
        agreement.add(clustering, f"{run.stage_name(one.stage)} {one.round}", tick)
        # The first round of a stage clusters features of the network that the stage before left.
        if one.round == 0 and one.stage == shown.stage and one.stage and shown.round:
            add_colours(clustering, f"features of {run.stage_name(one.stage - 1)}")
    if not run:
        agreement.add(shown, shown.name, tick="0")
    for other in others:
        agreement.add(other, other.name)
        add_colours(other, other.name)
    return agreement, deviations


def _some_rounds(run, rows):
    """The rounds of a run, spread evenly where there are many."""
    most = min(_MOST_ROUNDS, max(2, _CELLS // max(1, rows)))
    places = np.unique(np.linspace(0, len(run.rounds) - 1, most).astype(int))
    return [run.rounds[place] for place in places.tolist()]


def _figure8(run, dataset, stage):
    """Two images as the network sees them, and the filters of its first convolution."""
    images = []
    if run.experiment.model.sobel:
        reader = RowReader(dataset)
        for row in (dataset.rows // 3, 2 * dataset.rows // 3):
            try:
                sheets = sobel_sheets(reader.examples([row])[0]["encoded"])
            except CorruptRow:
                continue
            images.append((row, sheets))
    return {"sobel": run.experiment.model.sobel, "images": images, "filters": _filters(run, stage)}


def _filters(run, stage):
    from dc_tf.evaluation.models import open_model  # builds the network, which takes seconds
    from dc_tf.export.weights import named_weights

    try:
        trunk = open_model(run.folder.path, stage=stage).trunk
    except DataError as error:
        logging.info("the filters are not shown: %s", error)
        return []
    return filter_sheets(named_weights(trunk)["conv1"]["kernel"].numpy())
