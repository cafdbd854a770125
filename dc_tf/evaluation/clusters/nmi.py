"""Agreement of clusters with labels and metadata: hashtags, users, cameras, places.

    columns = read_columns(dataset, Protocol())
    result = evaluate(clusterings.find(path), dataset, columns)
    print(table(result))

For every clustering of a run, that of `dc_tf kmeans`, or one of features, and every column of
labels or metadata, the task computes normalised mutual information, adjusted Rand index, and
purity: the share of images whose value is the most frequent one of their cluster. A column's
metrics leave out images without a value. Workers share the reading of metadata, and the
clusterings.

Reference: Caron et al. 2019, section 4.2 and Figure 4. An image with several hashtags is assigned
its rarest one; a place is a cell of latitude and longitude.
"""

import collections
import dataclasses
import itertools

import numpy as np

from dc_tf import experiment
from dc_tf.clustering.statistics import adjusted_rand, nmi
from dc_tf.data.inspection import examples_of, spread_rows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE, all_gather, broadcast_json
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.clusters import clusterings
from dc_tf.evaluation.cost import Part, Work, spread
from dc_tf.progress import Progress
from dc_tf.run_dir import RunDir

LABEL, PLACE = "label", "place"
_COORDINATES = ("latitude", "longitude")
_BLOCK = 256  # images whose metadata a worker reads between broadcasts
# In the order of the table. The chance level of the first two grows with the number of clusters.
_METRICS = {
    "nmi": "normalised mutual information of clusters with",
    "purity": "share of images that have their cluster's most frequent value of",
    "adjusted_rand": "adjusted Rand index, 0 by chance, of clusters with",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings.

    Attributes:
        columns: "label", "place" (from latitude and longitude), or names of metadata; empty for
            all available columns.
        max_rows: largest number of images whose metadata is read, spread over the data set.
        cell_degrees: side of a place's cell, in degrees.
        k: of --features, which are clustered here: number of clusters; 0: as many as classes.
    """

    columns: tuple[str, ...] = ()
    max_rows: int = 1_000_000
    cell_degrees: float = 1.0
    k: int = 0

    def __post_init__(self):
        if self.k < 0:
            raise ConfigError(f"k is {self.k}; use a number of clusters, or 0 for the classes'.")
        if self.max_rows < 1 or self.cell_degrees <= 0:
            raise ConfigError(
                f"max_rows is {self.max_rows} and cell_degrees is {self.cell_degrees}; use "
                "positive numbers."
            )


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`. The data set is --train, by default that of the run."""
    if request.features is not None:
        return _run_on_features(request, protocol)
    if protocol.k:
        raise ConfigError(f"k is {protocol.k}, but --model={request.model} has clusters already.")
    found = clusterings.find(request.model)
    # The run may still be training, so workers may find different numbers of rounds.
    found = found[: all_gather(len(found), request.world).min()]
    dataset = Dataset.open(request.train or _data_path(request.model))
    request.announce(lambda: work(dataset, protocol, len(found)), networks=1)
    columns = read_columns(dataset, protocol, request.world)
    metrics = evaluate(found, dataset, columns, request.world)
    if not metrics:
        raise DataError(
            f"{request.model} has no complete clustering of more than one cluster yet; continue "
            "`dc_tf train`."
        )
    result = {"train": dataset.path, "rows": len(columns.rows), "clusterings": metrics}
    return result, table(metrics)


def _run_on_features(request, protocol) -> tuple[dict, str]:
    from dc_tf.evaluation.clusters.of_features import FeatureClusters  # imports TensorFlow

    if not request.train:
        raise ConfigError("--train is missing; give the data set that was embedded.")
    dataset = Dataset.open(request.train)
    clusters = FeatureClusters(request, protocol.k, dataset)
    request.announce(lambda: work(dataset, protocol, 1, clusters.part()), networks=1)
    columns = read_columns(dataset, protocol, request.world)
    found = [clusters.find()]
    metrics = evaluate(found, dataset, columns, request.world)
    return {"rows": len(columns.rows), "clusterings": metrics}, table(metrics)


def work(dataset, protocol: Protocol, count: int, *parts) -> Work:
    """The work: metadata is read, and each clustering compared with each column.

    Args:
        dataset: storage.manifest.Dataset.
        count: number of clusterings.
        *parts: further work.
    """
    rows = spread_rows(dataset, protocol.max_rows)

    def read(images):
        places = rows[spread(len(rows), images)]
        return sum(1 for _ in examples_of(dataset, places))

    def compared(pairs):
        compare(*np.random.default_rng(0).integers(0, 100, (2, pairs)))
        return pairs

    names = protocol.columns
    if _wants_meta(names):
        (first,) = examples_of(dataset, rows[:1])
        names = names or (LABEL, *(first["meta"] if first else ()))
        parts = (Part("metadata", len(rows), read, len(rows)), *parts)
    pairs = count * len(names) * len(rows)
    parts = (*parts, Part("pairs of cluster and value", pairs, compared, len(rows)))
    text = f"{count:,} {'clustering' if count == 1 else 'clusterings'} of {len(rows):,} images"
    return Work(text, parts)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Labels and metadata of some rows of a data set.

    Attributes:
        rows: (n,) int64 row ids.
        values: {name: (n,) int64}, ids of the distinct values, -1 for a missing value.
    """

    rows: np.ndarray
    values: dict


def read_columns(dataset, protocol: Protocol, world=ALONE) -> Columns:
    """Reads labels and metadata of a storage.manifest.Dataset.

    Args:
        world: Communicator of the workers that share the reading; all get the same result.

    Raises:
        ConfigError: the data set does not have a column; the message lists those that it has.
    """
    names = protocol.columns
    rows = spread_rows(dataset, protocol.max_rows)
    raw = {LABEL: _label_values(dataset, rows)}
    if _wants_meta(names):
        raw |= _meta_values(_metas(dataset, rows, world), len(rows), protocol.cell_degrees)
    known = [name for name, column in raw.items() if any(value is not None for value in column)]
    unknown = sorted(set(names) - set(known))
    if unknown or not known:
        has = ", ".join(known) or "neither labels nor metadata"
        raise ConfigError(f"{dataset.path} has no column {', '.join(unknown)}; it has {has}.")
    return Columns(rows, {name: _numbered(raw[name]) for name in names or known})


def evaluate(found, dataset, columns: Columns, world=ALONE) -> list[dict]:
    """Metrics of clusterings of a data set, in their order.

    Args:
        found: list of `clusterings.find`.
        dataset: storage.manifest.Dataset.
        columns: Columns of the data set.
        world: Communicator of the workers that share the clusterings; all get the same result.

    Returns:
        One dict per clustering, level and column: `stage` and `round` (int; None for k-means),
        `level` ("clusters", or "sub_clusters" for both levels combined), `column`, `rows` (number
        of rows with a value), `values` (number of distinct values), and `nmi`, `adjusted_rand`,
        `purity`, each in [0, 1] except the Rand index, which may be negative.

    Raises:
        DataError: a clustering belongs to another data set.
    """
    own = []
    with raise_on_all(world):
        for clustering in found[world.rank :: world.size]:
            own.append(_compared(clustering, dataset, columns))
    lines = [None] * len(found)
    for root in range(world.size):
        lines[root :: world.size] = broadcast_json(own, world, root)
    return list(itertools.chain.from_iterable(lines))


def _compared(clustering, dataset, columns) -> list[dict]:
    result = []
    for level, labels in clustering.levels(dataset).items():
        place = {"stage": clustering.stage, "round": clustering.round, "level": level}
        for column, values in columns.values.items():
            metrics = compare(labels[columns.rows], values)
            result.append({**place, "column": column, **metrics})
    return result


def compare(clusters, values) -> dict:
    """Metrics of (n,) clusters and a column's (n,) values; negative values are unknown."""
    known = values >= 0
    clusters, values = clusters[known], values[known]
    return {
        "rows": int(known.sum()),
        "values": len(np.unique(values)),
        "nmi": nmi(clusters, values),
        "adjusted_rand": adjusted_rand(values, clusters),
        "purity": purity(clusters, values),
    }


def purity(clusters, values) -> float:
    """Share of rows with the most frequent value of their cluster; takes (n,) integers."""
    if not len(clusters):
        return 0.0
    pairs, counts = np.unique(np.stack([clusters, values], 1), axis=0, return_counts=True)
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=pairs[0, 0] - 1))
    return float(np.maximum.reduceat(counts, starts).sum() / len(clusters))


def table(result: list[dict]) -> str:
    """One block per metric: a line per clustering and level, a column per column."""
    return "\n\n".join(_block(result, metric, title) for metric, title in _METRICS.items())


def _block(result, metric, title) -> str:
    columns = list(dict.fromkeys(line["column"] for line in result))
    width = {name: max(len(name), 6) for name in columns}
    lines = ["stage round level         " + "  ".join(f"{n:>{width[n]}}" for n in columns)]
    cells = {(o["stage"], o["round"], o["level"], o["column"]): o[metric] for o in result}
    for stage, round_index, level in dict.fromkeys(key[:3] for key in cells):
        numbers = [
            f"{cells[stage, round_index, level, name]:>{width[name]}.3f}" for name in columns
        ]
        place = " ".join(f"{'-' if n is None else n:>5}" for n in (stage, round_index))
        lines.append(f"{place} {level:13} " + "  ".join(numbers))
    return "\n".join([f"{metric}: {title}", *lines])


def _data_path(model) -> str:
    if clusterings.is_kmeans(model):
        raise ConfigError(
            f"--train is missing, and --model={model} is of `dc_tf kmeans`, which does not record "
            "the data set; give the data set that was embedded."
        )
    return experiment.load([RunDir(model).config]).data.path


def _wants_meta(names):
    return not names or set(names) - {LABEL}


def _label_values(dataset, rows):
    labels = dataset.labels()[rows]
    return [int(label) if label >= 0 else None for label in labels]


def _metas(dataset, rows, world):
    """Yields the metadata of each row, {} for a corrupt one.

    Each worker reads a share and broadcasts it. All workers must take the same number of items.
    """
    step = _BLOCK * world.size
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    shares = [block[row_block(len(block), world.rank, world.size)] for block in blocks]
    source = examples_of(dataset, np.concatenate([rows[:0], *shares]))
    with Progress(len(rows), "metadata", "images", enabled=world.rank == 0) as progress:
        for block, share in zip(blocks, shares, strict=True):
            own = []
            with raise_on_all(world):
                for example in itertools.islice(source, len(share)):
                    own.append(example["meta"] if example else {})
            for root in range(world.size):
                yield from broadcast_json(own, world, root)
            progress.update(len(block))


def _meta_values(metas, count, cell_degrees) -> dict:
    """{name: [value of each row, or None]} from the metadata of `count` rows, with places."""
    raw = collections.defaultdict(lambda: [None] * count)
    for place, meta in enumerate(metas):
        for name, value in meta.items():
            raw[name][place] = value
    if all(name in raw for name in _COORDINATES):
        pairs = zip(*(raw.pop(name) for name in _COORDINATES), strict=True)
        raw[PLACE] = [_cell(pair, cell_degrees) for pair in pairs]
    return {name: _rarest(column) for name, column in raw.items()}


def _cell(pair, degrees):
    if not all(isinstance(number, int | float) for number in pair):
        return None
    return tuple(int(np.floor(number / degrees)) for number in pair)


def _rarest(column):
    """Replaces each list of values by its rarest value over all rows; the smallest on a tie."""
    counts = collections.Counter()
    for value in column:
        if isinstance(value, list):
            counts.update(set(value))
    return [
        min(value, key=lambda item: (counts[item], item)) if isinstance(value, list) else value
        for value in column
    ]


def _numbered(column) -> np.ndarray:
    numbers = {}
    return np.array(
        [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in column],
        np.int64,
    )
