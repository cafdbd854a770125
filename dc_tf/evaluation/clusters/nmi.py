"""What clusters know of things that nobody told them: labels, hashtags, users, cameras, places.

    columns = read_columns(dataset, Protocol())
    result = evaluate(clusterings.find(path), dataset, columns)
    print(table(result))

For every clustering of a run, or that of `dc_tf kmeans`, and every column of what is known about
the images: normalised mutual information, adjusted Rand index, and purity, the share of images
whose value is the most frequent one of their cluster. Images of which a column says nothing are
left out of that column. Workers share the reading of metadata, and the clusterings.

Reference: Caron et al. 2019, section 4.2 and Figure 4. Of several hashtags an image is taken to
have its rarest; a place is a cell of latitude and longitude.
"""

import collections
import dataclasses
import itertools

import numpy as np

from dc_tf import experiment
from dc_tf.clustering.statistics import nmi
from dc_tf.data.inspection import examples_of, spread_rows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE, all_gather, broadcast_json
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.clusters import clusterings
from dc_tf.progress import Progress
from dc_tf.run_dir import RunDir

LABEL, PLACE = "label", "place"
_COORDINATES = ("latitude", "longitude")
_BLOCK = 256  # images whose metadata a worker reads before it tells the others
# Of the table, in its order. What chance gives of the first two grows with the number of clusters.
_FIGURES = {
    "nmi": "normalised mutual information of clusters with",
    "purity": "share of images that have their cluster's most frequent value of",
    "adjusted_rand": "adjusted Rand index, 0 by chance, of clusters with",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings.

    Attributes:
        columns: "label", "place" (from latitude and longitude), or names of metadata; none takes
            all that there are.
        max_rows: images whose metadata is read, spread over the data set.
        cell_degrees: side of the cell that is a place.
    """

    columns: tuple[str, ...] = ()
    max_rows: int = 1_000_000
    cell_degrees: float = 1.0

    def __post_init__(self):
        if self.max_rows < 1 or self.cell_degrees <= 0:
            raise ConfigError(
                f"max_rows is {self.max_rows} and cell_degrees is {self.cell_degrees}; use "
                "positive numbers."
            )


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """The task; see `tasks`. The data set is --train, or that of a run where it was not given."""
    found = clusterings.find(request.model)
    # A run may go on meanwhile, so that one worker sees a round more than another.
    found = found[: all_gather(len(found), request.world).min()]
    dataset = Dataset.open(request.train or _data_path(request.model))
    columns = read_columns(dataset, protocol, request.world)
    figures = evaluate(found, dataset, columns, request.world)
    if not figures:
        raise DataError(
            f"{request.model} has no complete clustering of more than one cluster yet; let `dc_tf "
            "train` go on."
        )
    result = {"train": dataset.path, "rows": len(columns.rows), "clusterings": figures}
    return result, table(figures)


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is known about some rows of a data set.

    Attributes:
        rows: (n,) int64 row ids.
        values: {name: (n,) int64}, a number for each different value, -1 where there is none.
    """

    rows: np.ndarray
    values: dict


def read_columns(dataset, protocol: Protocol, world=ALONE) -> Columns:
    """Reads labels and metadata of a data.manifest.Dataset.

    Args:
        world: Communicator of the workers that share the reading; all return the same.

    Raises:
        ConfigError: a column that the data set does not have; it names those that it has.
    """
    names = protocol.columns
    wants_meta = not names or set(names) - {LABEL}
    rows = spread_rows(dataset, protocol.max_rows)
    raw = {LABEL: _label_values(dataset, rows)}
    if wants_meta:
        raw |= _meta_values(_metas(dataset, rows, world), len(rows), protocol.cell_degrees)
    known = [name for name, column in raw.items() if any(value is not None for value in column)]
    unknown = sorted(set(names) - set(known))
    if unknown or not known:
        has = ", ".join(known) or "neither labels nor metadata"
        raise ConfigError(f"{dataset.path} has no column {', '.join(unknown)}; it has {has}.")
    return Columns(rows, {name: _numbered(raw[name]) for name in names or known})


def evaluate(found, dataset, columns: Columns, world=ALONE) -> list[dict]:
    """Figures of the clusterings of a data set that `clusterings.find` has found, in their order.

    Args:
        world: Communicator of the workers that share the clusterings; all return the same.

    Returns:
        dicts of `stage` and `round` (int; None of k-means), `level` ("clusters", or "sub_clusters"
        for both levels in one), `column`, `rows` (that have a value), `values` (different ones),
        `nmi`, `adjusted_rand`, `purity`, each in [0, 1] but the Rand index, which may be below 0.

    Raises:
        DataError: a clustering is of another data set.
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
            figures = compare(labels[columns.rows], values)
            result.append({**place, "column": column, **figures})
    return result


def compare(clusters, values) -> dict:
    """Figures of one clustering (n,) and one column (n,), whose negative values are unknown."""
    from sklearn import metrics  # takes seconds to import

    known = values >= 0
    clusters, values = clusters[known], values[known]
    return {
        "rows": int(known.sum()),
        "values": len(np.unique(values)),
        "nmi": nmi(clusters, values),
        "adjusted_rand": float(metrics.adjusted_rand_score(values, clusters)),
        "purity": purity(clusters, values),
    }


def purity(clusters, values) -> float:
    """Share of rows that have the most frequent value of their cluster; (n,) integers each."""
    if not len(clusters):
        return 0.0
    pairs, counts = np.unique(np.stack([clusters, values], 1), axis=0, return_counts=True)
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=pairs[0, 0] - 1))
    return float(np.maximum.reduceat(counts, starts).sum() / len(clusters))


def table(result: list[dict]) -> str:
    """A block for each figure: one line a clustering and level, one column a column."""
    return "\n\n".join(_block(result, figure, title) for figure, title in _FIGURES.items())


def _block(result, figure, title) -> str:
    columns = list(dict.fromkeys(line["column"] for line in result))
    width = {name: max(len(name), 6) for name in columns}
    lines = ["stage round level         " + "  ".join(f"{n:>{width[n]}}" for n in columns)]
    cells = {(o["stage"], o["round"], o["level"], o["column"]): o[figure] for o in result}
    for stage, round_index, level in dict.fromkeys(key[:3] for key in cells):
        numbers = [
            f"{cells[stage, round_index, level, name]:>{width[name]}.3f}" for name in columns
        ]
        place = " ".join(f"{'-' if n is None else n:>5}" for n in (stage, round_index))
        lines.append(f"{place} {level:13} " + "  ".join(numbers))
    return "\n".join([f"{figure}: {title}", *lines])


def _data_path(model) -> str:
    if clusterings.is_kmeans(model):
        raise ConfigError(
            f"--train is missing; --model={model} is of `dc_tf kmeans`, which knows no labels: "
            "give the data set that was embedded."
        )
    return experiment.load([RunDir(model).config]).data.path


def _label_values(dataset, rows):
    labels = dataset.labels()[rows]
    return [int(label) if label >= 0 else None for label in labels]


def _metas(dataset, rows, world):
    """Yields the metadata of each of some rows, {} of a damaged one.

    Workers read a share each and tell the others. All have to take as many.
    """
    step = _BLOCK * world.size
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    shares = [np.array_split(block, world.size)[world.rank] for block in blocks]
    source = examples_of(dataset, np.concatenate([rows[:0], *shares]))
    with Progress(len(rows), "metadata", "images", enabled=world.rank == 0) as progress:
        for block, share in zip(blocks, shares):
            own = []
            with raise_on_all(world):
                for example in itertools.islice(source, len(share)):
                    own.append(example["meta"] if example else {})
            for root in range(world.size):
                yield from broadcast_json(own, world, root)
            progress.update(len(block))


def _meta_values(metas, count, cell_degrees) -> dict:
    """{name: [value of each row, or None]} of the metadata of `count` rows, and of places."""
    raw = collections.defaultdict(lambda: [None] * count)
    for place, meta in enumerate(metas):
        for name, value in meta.items():
            raw[name][place] = value
    if all(name in raw for name in _COORDINATES):
        pairs = zip(*(raw.pop(name) for name in _COORDINATES))
        raw[PLACE] = [_cell(pair, cell_degrees) for pair in pairs]
    return {name: _rarest(column) for name, column in raw.items()}


def _cell(pair, degrees):
    if not all(isinstance(number, int | float) for number in pair):
        return None
    return tuple(int(np.floor(number / degrees)) for number in pair)


def _rarest(column):
    """Of a list of values the one that the fewest rows have; the first of equally rare ones."""
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
