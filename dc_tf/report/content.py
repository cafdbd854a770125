"""What the sections of a report show, from an opened run or clustering.

    parts = of_training(run)                                   # curves and facts
    sample, read, parts = of_clusters(dataset, shown, run, others, sheets=120, max_rows=100_000)
    parts = of_network(run)                                    # input and filters

Each returns the names that the templates use. A bounded number of rows is read (`sample`);
statistics of all rows take a pass over the assignments.
"""

import os

import numpy as np
from absl import logging

from dc_tf.atomic import read_json
from dc_tf.curation.clusters.open import Clustering, open_round, with_distances
from dc_tf.curation.clusters.outliers import distance_statistics
from dc_tf.data.storage.reader import CorruptRow, RowReader
from dc_tf.errors import DataError
from dc_tf.report import columns as columns_lib
from dc_tf.report import sample as sample_lib
from dc_tf.report.sections import clusters, colours, curves
from dc_tf.report.sections.about import sentences
from dc_tf.report.sections.agreement import Agreement
from dc_tf.report.sections.filters import filter_sheets, sobel_sheets
from dc_tf.report.sections.gallery import Gallery
from dc_tf.report.sections.tail import Tail
from dc_tf.report.thumbnails import Thumbnails

COLOURED = 20_000  # images that are decoded for their mean colour
_PER_CLUSTER = 20  # of them in each cluster
_MOST_ROUNDS = 24  # that are compared with labels and metadata
_FILES = 20  # inputs of a k-means that are named
_CELLS = 1 << 31  # rows x rounds that are read for it


def of_training(run) -> dict:
    """Curves and facts of a clusters.open.Run."""
    log = curves.Log.read(run.folder.metrics)
    stages = run.experiment.stages
    steps, clustering = curves.seconds(log, [stage.batch_size for stage in stages])
    result = _json(run.folder.result)
    return {
        "log": log,
        "charts_of_training": curves.charts_of(log, [stage.name for stage in stages]),
        "seconds": {"training": steps, "clustering": clustering},
        "settings": run.experiment,
        "versions": _json(run.folder.versions),
        "result": result,
        "failed_step": _json(run.folder.failed_step),
        "warnings": [] if result else ["The run has not finished; this is how far it is."],
    }


def of_kmeans(shown) -> dict:
    """Objective and facts of a clusters.open.Clustering of embeddings."""
    made = read_json(os.path.join(shown.path, "clustering.json"))
    return {
        "log": None,
        "charts_of_training": curves.objective_charts(made.get("objective") or ()),
        "seconds": {"clustering": made.get("seconds") or 0.0},
        "settings": None,
        "made_with": _made_with(made),
        "versions": made.get("versions") or {},
        "result": {},
        "failed_step": {},
        "warnings": sentences(made),
    }


def _made_with(made):
    """[(name, text)] of the settings and inputs of a clustering of embeddings."""
    settings = [(name, str(value)) for name, value in made["settings"].items()]
    files = [f"{file['path']}, {file['rows']} rows" for file in made["input"]]
    return settings + [("input", text) for text in files[:_FILES]]


def measured(clustering) -> Clustering:
    """The Clustering of `dc_tf kmeans` with distances, where its features are still there."""
    try:
        return with_distances(clustering)
    except (DataError, OSError) as error:
        logging.warning("distances to the centroids are not known: %s", error)
        return clustering


def of_clusters(dataset, shown, run, others, sheets: int, max_rows: int) -> tuple:
    """What is shown of clusters.

    Args:
        dataset: Dataset.
        shown: clusters.open.Clustering, or None for a run without one.
        run: clusters.open.Run, or None.
        others: list of clusters.open.Clustering to compare with.
        sheets: number of clusters whose images are shown.
        max_rows: images whose metadata is read.

    Returns:
        sample.Sample, columns.Found of its rows, and a dict for the templates.
    """
    if shown is None:
        sample = sample_lib.spread_only(dataset, max_rows)
        read = columns_lib.read(dataset, sample.rows, sample.rows[:0])
        return sample, read, dict.fromkeys(("agreement", "gallery", "colours", "tail", "rounds"))
    sizes = shown.sizes()
    sample = sample_lib.choose(shown, sizes, max_rows)
    beside = [(shown.name, shown), *_beside(shown, run, others)]
    coloured = _coloured([one for _, one in beside], sample)
    read = columns_lib.read(dataset, sample.rows, np.concatenate(coloured))
    statistics = distance_statistics(shown)
    found = [
        (name, _colours(one, rows, sample, read))
        for (name, one), rows in zip(beside, coloured, strict=True)
    ]
    described = clusters.describe(shown, sizes, sample, read, statistics, found[0][1])
    groups = clusters.select(described, read.columns)
    parts = {
        "agreement": _agreement(shown, run, others, sample, read),
        "gallery": Gallery(shown, described, groups, statistics, sizes, sheets),
        "colours": colours.Section(found, described),
        "tail": Tail(shown, sizes, described, read.columns),
        "rounds": len(run.rounds) if run else None,
    }
    return sample, read, parts


def of_copies(dataset, copies) -> list:
    """[(size, [Picture])] of the groups of a copies.Copies; [] without one."""
    if copies is None:
        return []
    pictures = Thumbnails(dataset)
    pictures.load([row for group in copies.groups for row in group.rows], "near-duplicates")
    return [(group.size, [pictures[row] for row in group.rows]) for group in copies.groups]


def of_network(run, stage: str) -> dict:
    """Two images as the network of a clusters.open.Run sees them, and the filters of conv1."""
    sobel, images = run.experiment.model.sobel, []
    reader = RowReader(run.dataset)
    for row in (run.dataset.rows // 3, 2 * run.dataset.rows // 3) if sobel else ():
        try:
            sheets = sobel_sheets(reader.examples([row])[0]["encoded"])
        except CorruptRow:
            continue  # it is counted among the warnings where it is read for metadata
        if sheets:
            images.append((row, sheets))
    return {"sobel": sobel, "images": images, "filters": _filters(run, stage)}


def _beside(shown, run, others):
    """[(name, Clustering)] of what the colours are compared with.

    The first round of a stage clusters features of the network that the stage before left.
    """
    first = [one for one in run.rounds if (one.stage, one.round) == (shown.stage, 0)] if run else []
    found = []
    if first and shown.round and shown.stage:
        name = f"features of {run.stage_name(shown.stage - 1)}"
        found.append((name, open_round(run, first[0])))
    return found + [(other.name, other) for other in others]


def _coloured(clusterings, sample):
    """For each Clustering, the rows whose mean colours give its own.

    All of few; else some of each of many clusters, and nothing for those whose rows are not read.
    """
    if sample.whole and len(sample.rows) <= COLOURED:
        return [sample.rows] * len(clusterings)
    most = COLOURED // _PER_CLUSTER
    own, *others = clusterings
    drawn = [_members(own, sample.clusters, most)]
    for other in others:
        filled = np.flatnonzero(other.sizes()) if sample.whole else sample.clusters[:0]
        drawn.append(_members(other, filled, most))
    return drawn


def _members(clustering, numbers, most):
    """(n,) ascending row ids of some members of at most so many clusters.

    They are among those that `sample.choose` takes, which has the same key.
    """
    some = np.random.default_rng(0).permutation(numbers)[:most]
    drawn = sample_lib.least_of_each(clustering, some, _PER_CLUSTER, sample_lib.at_random(0))
    return np.sort(np.concatenate([np.zeros(0, np.int64), *drawn.values()]))


def _colours(clustering, rows, sample, read):
    places = np.searchsorted(sample.rows, rows)
    return colours.Colours(clustering.flat(rows), read.colours[places])


def _agreement(shown, run, others, sample, read):
    """The Agreement of the rounds of a run, or of one clustering, and of others."""
    columns = {
        name: column.rarest(len(sample.rows))[sample.spread]
        for name, column in read.columns.items()
    }
    agreement = Agreement(sample.rows[sample.spread], columns)
    rounds = _some_rounds(run, shown.dataset.rows) if run else []
    one_stage = len({one.stage for one in rounds}) == 1
    for one in rounds:
        name, tick = f"round {one.round}", str(one.round)
        if not one_stage:
            name, tick = f"{run.stage_name(one.stage)}, {name}", f"{one.stage}.{tick}"
        agreement.add(open_round(run, one), name, tick)
    if not run:
        agreement.add(shown, shown.name, tick="0")
    for other in others:
        agreement.add(other, other.name)
    return agreement


def _some_rounds(run, rows):
    """The rounds of a run, spread evenly where there are many."""
    most = min(_MOST_ROUNDS, max(2, _CELLS // max(1, rows)))
    places = np.unique(np.linspace(0, len(run.rounds) - 1, most).astype(int))
    return [run.rounds[place] for place in places.tolist()]


def _filters(run, stage):
    from dc_tf.exporting.weights import named_weights
    from dc_tf.training.checkpoint import load_trunk  # builds the network, which takes seconds

    try:
        trunk, _ = load_trunk(run.folder.path, stage)
    except DataError as error:
        logging.info("the filters are not shown: %s", error)
        return []
    return filter_sheets(named_weights(trunk)[trunk.stem_conv]["kernel"].numpy())


def _json(path):
    """What a JSON file holds; {} if it is not there."""
    return read_json(path) if os.path.exists(path) else {}
