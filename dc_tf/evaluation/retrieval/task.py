"""Instance retrieval: ranks images by the dot product of R-MAC vectors.

    result, table = run(request, Protocol())

`--train` is a folder of images (no labels, any depth) that the whitening is fitted on. `--test` is
a folder of other images with one of three kinds of ground truth, at any depth:

classic: `*_query.txt`, `*_good.txt`, `*_ok.txt`, `*_junk.txt` of Oxford5k or Paris6k.
revisited: one `gnd_*.pkl` or `gnd_*.json` of ROxford5k or RParis6k.
groups: neither; one sub-folder per object, whose images are each other's positives.

With --features, --train and --test are data sets instead, see `of_features`.

Reference: Caron et al. 2019, Table 6; Tolias et al. 2016; docs/reference.md, section 5.
"""

import dataclasses

import numpy as np

from dc_tf.data.storage.files import same_place
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation import paper
from dc_tf.evaluation.average_precision import average_precision
from dc_tf.evaluation.comparison import advice
from dc_tf.evaluation.cost import Part, Work, spread
from dc_tf.evaluation.models import network_class, random_init
from dc_tf.evaluation.neighbours import of_query
from dc_tf.evaluation.retrieval import of_features
from dc_tf.evaluation.retrieval.ground_truth import GroundTruth, groups, images_in
from dc_tf.evaluation.retrieval.images import MIN_SIDE, scaled_images
from dc_tf.evaluation.retrieval.oxford import query_files, read_oxford
from dc_tf.evaluation.retrieval.rankings import rankings
from dc_tf.evaluation.retrieval.revisited import ground_truth_files, read_revisited
from dc_tf.evaluation.retrieval.rmac_features import RMACExtractor
from dc_tf.nn.trunks import all_layer_names

_SAMPLED = 256  # largest number of images of a cost sample
# Takes minutes on a CPU for a network of small images and a few hundred photographs.
SMALL = {"longest_side": 128}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are the paper's.

    Attributes:
        longest_side: longest side in pixels to which every image is scaled; a query's box is
            cropped at that scale.
        layer: a map, after ReLU and before pooling; "" for the last one, conv13 of VGG-16.
        levels: number of scales of regions.
        overlap: target overlap of neighbouring regions, as a share of their area.
        dimensions: dimensions after whitening; 0 for the number of channels (512 in VGG-16).
        ignore_unreadable: leave corrupt images out of database, ground truth and whitening, as is
            usual for the 20 of Paris6k; otherwise they are an error.
        paper: the paper's data set whose results are shown beside: "auto" to recognise it, see
            `paper`; "oxford5k" or "paris6k"; "" for none.
    """

    longest_side: int = 1024
    layer: str = ""
    levels: int = 3
    overlap: float = 0.4
    dimensions: int = 0
    ignore_unreadable: bool = False
    paper: str = paper.AUTO

    def __post_init__(self):
        if not MIN_SIDE <= self.longest_side <= 8192:
            raise ConfigError(f"longest_side is {self.longest_side}; use {MIN_SIDE} to 8192.")
        if self.layer and self.layer not in all_layer_names("map_names"):
            names = ", ".join(all_layer_names("map_names"))
            raise ConfigError(f"layer is {self.layer!r}; use one of {names}.")
        if self.levels < 1 or self.dimensions < 0:
            raise ConfigError(
                f"levels is {self.levels} and dimensions is {self.dimensions}; use at least 1 "
                "level and 0 or more dimensions."
            )
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap is {self.overlap}; use 0 or more, less than 1.")
        paper.check_setting(self.paper, paper.RETRIEVAL)


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`. The choice depends on the network only, not on the number of images."""
    del given
    return {}, 0


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    if request.features is not None:
        return of_features.run(request, protocol)
    for name in ("train", "test"):
        if not getattr(request, name):
            raise ConfigError(f"--{name} is missing; give a folder of images.")
    if same_place(request.train, request.test):
        raise ConfigError(
            "--train and --test are the same folder; give other images as --train, for whitening."
        )
    ground_truth = read_ground_truth(request.test)
    others = images_in(request.train)
    protocol = _with_layer(protocol, network_class(request.model))
    frozen = request.frozen_model()
    request.announce(lambda: work(frozen, ground_truth, others, protocol))
    own = evaluate(frozen, ground_truth, others, protocol, request.world, request.neighbours)
    untrained = None
    if request.random_init:
        begin = random_init(frozen, request.seed)
        untrained = evaluate(begin, ground_truth, others, protocol, request.world)
    main = ground_truth.metrics[-1]
    result = {
        "map": own[main],
        "random_init_map": untrained[main] if untrained else None,
        "metrics": own,
        "random_init": untrained,
        "kind": ground_truth.kind,
        "images": len(ground_truth.database),
        "queries": len(ground_truth.queries),
        "whitening_images": len(others),
        "paper_dataset": paper.data_of(
            protocol.paper,
            paper.retrieval_data(
                ground_truth.kind, len(ground_truth.database), len(ground_truth.queries)
            ),
            tuple(paper.RETRIEVAL),
        ),
        "advice": advice(
            "the model", own[main], untrained and untrained[main], len(ground_truth.queries)
        ),
        "network": frozen.network,
    }
    return result, table(result, ground_truth, protocol)


def _with_layer(protocol, network) -> Protocol:
    """The protocol with a map of the network.

    Raises:
        ConfigError: it has no map of that name.
    """
    names = network.map_names
    if protocol.layer and protocol.layer not in names:
        raise ConfigError(f"layer is {protocol.layer!r}; use one of {', '.join(names)}.")
    return dataclasses.replace(protocol, layer=protocol.layer or names[-1])


def work(frozen, ground_truth, others, protocol: Protocol) -> Work:
    """The work: every image once, and query images with a box once more."""
    extractor = RMACExtractor(frozen.trunk, protocol, ALONE, frozen.name)
    boxed = sum(query.row is None for query in ground_truth.queries)
    count = len(others) + len(ground_truth.database) + boxed

    def sample(images):
        paths = [ground_truth.database[row] for row in spread(len(ground_truth.database), images)]
        requests = [(row, path, None) for row, path in enumerate(paths)]
        for _, image in scaled_images(requests, protocol.longest_side):
            if not isinstance(image, DataError):  # the task itself reports unusable images
                extractor.regions(image)
        return images

    text = f"{count:,} images of {protocol.longest_side} pixels"
    return Work(text, (Part("images", count, sample, _SAMPLED),))


def read_ground_truth(folder: str) -> GroundTruth:
    """Reads the ground truth of a folder, of any of the three kinds.

    Raises:
        ConfigError: the folder has no ground truth, or several.
        DataError: the ground truth is corrupt, or it names an image that is missing.
    """
    classic, revisited = query_files(folder), ground_truth_files(folder)
    if classic and revisited:
        raise ConfigError(
            f"{folder!r} has both {classic[0]} and {revisited[0]}; measure on one ground truth at "
            "a time."
        )
    if classic:
        return read_oxford(folder)
    return read_revisited(folder) if revisited else groups(folder)


def evaluate(frozen, ground_truth, others, protocol, world, neighbours=None) -> dict:
    """Mean average precision of a network.

    Args:
        frozen: models.FrozenModel.
        ground_truth: GroundTruth.
        others: paths of the images that whitening is fitted on.
        protocol: Protocol.
        world: Communicator of the workers.
        neighbours: list that gets the first images of each query, see `neighbours`; or None.

    Returns:
        {metric: mean over its queries, in [0, 1]}; "unreadable": paths of database images that
        were left out; "whitening_unreadable": number of images in `others` that were left out.

    Raises:
        ConfigError: `dimensions` is too large for the network or the images.
        DataError: an image is unusable, or no query has a readable positive.
    """
    extractor = RMACExtractor(frozen.trunk, protocol, world, frozen.name)
    ignore = protocol.ignore_unreadable
    whitening, no_use = extractor.fit(others, ignore)
    requests = [(row, path, None) for row, path in enumerate(ground_truth.database)]
    database, bad = extractor.vectors(requests, whitening, ignore=ignore)
    queries = _query_vectors(extractor, whitening, ground_truth, database)
    used = [i for i, q in enumerate(ground_truth.queries) if q.row is None or not bad[q.row]]
    found = {metric: [] for metric in ground_truth.metrics}
    left_out = np.flatnonzero(bad)
    for i, ranked in zip(used, rankings(database, queries[used]), strict=True):
        if neighbours is not None:
            similarities = database @ queries[i]
            readable = ranked[~np.isin(ranked, left_out)]
            neighbours.extend(of_query(ground_truth, i, readable, similarities))
        for metric, answer in ground_truth.queries[i].answers.items():
            junk = np.union1d(answer.junk, left_out)
            if len(np.setdiff1d(answer.positives, junk)):
                found[metric].append(average_precision(ranked, answer.positives, junk))
    metrics = {name: float(np.mean(values)) for name, values in found.items() if values}
    if ground_truth.metrics[-1] not in metrics:
        raise DataError("no query has a readable positive; repair the images of --test.")
    unreadable = [ground_truth.database[row] for row in left_out]
    return metrics | {"unreadable": unreadable, "whitening_unreadable": int(no_use.sum())}


def table(result, ground_truth, protocol) -> str:
    """Table of percentages, with the paper's results on its data."""
    lines = [
        f"retrieval ({ground_truth.kind}) by {protocol.layer}, mean average precision in percent; "
        f"{result['queries']} queries in {result['images']} images",
        f"{'':24}" + "".join(f"{metric:>10}" for metric in ground_truth.metrics),
    ]
    for name, label in (("metrics", "model"), ("random_init", "random init")):
        if found := result[name]:
            cells = [f"{100 * found[f]:.2f}" if f in found else "-" for f in ground_truth.metrics]
            lines.append(f"{label:24}" + "".join(f"{cell:>10}" for cell in cells))
    data = result["paper_dataset"]
    for method, percent in paper.RETRIEVAL.get(data, {}).items():
        lines.append(f"{'paper: ' + method:24}{percent:>10.1f}")
    if data:
        lines.append(f"paper: on {data} with its classic ground truth")
    if result["advice"]:
        lines.append(result["advice"])
    return "\n".join(lines)


def _query_vectors(extractor, whitening, ground_truth, database):
    """(q, d) float32; reuses the vectors of whole images that are in the database."""
    vectors = np.empty((len(ground_truth.queries), database.shape[1]), np.float32)
    boxed = []
    for i, query in enumerate(ground_truth.queries):
        if query.row is None:
            boxed.append(i)
        else:
            vectors[i] = database[query.row]
    requests = [
        (n, ground_truth.queries[i].path, ground_truth.queries[i].box) for n, i in enumerate(boxed)
    ]
    if boxed:
        vectors[boxed] = extractor.vectors(requests, whitening, "queries")[0]
    return vectors
