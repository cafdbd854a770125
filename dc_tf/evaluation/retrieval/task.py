"""Finds images of the same object: R-MAC vectors of convolutions, compared by dot product.

    result, table = run(request, Protocol())

`--test` is a folder of images with one of three ground truths anywhere in it, `--train` a folder of
other images (no labels, any depth), whose regions the whitening is fitted on:

classic: `*_query.txt`, `*_good.txt`, `*_ok.txt`, `*_junk.txt` of Oxford5k or Paris6k.
revisited: one `gnd_*.pkl` or `gnd_*.json` of ROxford5k or RParis6k.
groups: neither; a sub-folder for each object, each of whose images is to find the others.

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
from dc_tf.evaluation.models import random_init
from dc_tf.evaluation.retrieval.ground_truth import Truth, groups, images_in
from dc_tf.evaluation.retrieval.images import MIN_SIDE, scaled_images
from dc_tf.evaluation.retrieval.oxford import query_files, read_oxford
from dc_tf.evaluation.retrieval.revisited import read_revisited, truth_files
from dc_tf.evaluation.retrieval.rmac_features import Describer
from dc_tf.nn.vgg16 import CONV_LAYERS

_SAMPLED = 256  # images of a try, at most
_RANKED = 1 << 24  # row ids in memory at a time
# Minutes on a CPU for a network of small images and some hundred photographs.
SMALL = {"longest_side": 128}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are the paper's.

    Attributes:
        longest_side: pixels that the longest side of every image is brought to; a query's box is
            cut from the image at that size.
        layer: whose map is taken, after ReLU and before pooling.
        levels: scales of regions.
        overlap: share of a region's area that its neighbour has in common, as nearly as can be.
        dimensions: of whitened regions; 0 for as many as the map has channels (512 in VGG-16).
        ignore_unreadable: leave broken images out of database, ground truth and whitening, as is
            usual for the 20 of Paris6k; else they are an error.
        paper: the paper's data set whose figures are shown as well: "auto" recognises it, see
            `paper`; "oxford5k" or "paris6k"; "" for none.
    """

    longest_side: int = 1024
    layer: str = "conv13"
    levels: int = 3
    overlap: float = 0.4
    dimensions: int = 0
    ignore_unreadable: bool = False
    paper: str = paper.AUTO

    def __post_init__(self):
        if not MIN_SIDE <= self.longest_side <= 8192:
            raise ConfigError(f"longest_side is {self.longest_side}; use {MIN_SIDE} to 8192.")
        if self.layer not in CONV_LAYERS:
            raise ConfigError(f"layer is {self.layer!r}; use one of {', '.join(CONV_LAYERS)}.")
        if self.levels < 1 or self.dimensions < 0:
            raise ConfigError("levels is less than 1 or dimensions is negative.")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap is {self.overlap}; use 0 or more, less than 1.")
        paper.check_setting(self.paper, paper.RETRIEVAL)


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`. A network of large images needs large ones, of whatever number."""
    del given
    return {}, 0


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """The task; see `tasks`."""
    for name in ("train", "test"):
        if not getattr(request, name):
            raise ConfigError(f"--{name} is missing; give a folder of images.")
    if same_place(request.train, request.test):
        raise ConfigError("--train and --test are the same; whitening is fitted on other images.")
    truth = read_truth(request.test)
    others = images_in(request.train)
    subject = request.subject()
    request.announce(lambda: work(subject, truth, others, protocol))
    own = evaluate(subject, truth, others, protocol, request.world)
    untrained = None
    if request.random_init:
        begin = random_init(subject, request.seed)
        untrained = evaluate(begin, truth, others, protocol, request.world)
    main = truth.figures[-1]
    result = {
        "map": own[main],
        "random_init_map": untrained[main] if untrained else None,
        "figures": own,
        "random_init": untrained,
        "kind": truth.kind,
        "images": len(truth.database),
        "queries": len(truth.queries),
        "whitening_images": len(others),
        "paper_dataset": paper.data_of(
            protocol.paper,
            paper.retrieval_data(truth.kind, len(truth.database), len(truth.queries)),
            tuple(paper.RETRIEVAL),
        ),
        "advice": advice("the model", own[main], untrained and untrained[main], len(truth.queries)),
        "network": {**subject.trunk.settings, "compute_dtype": subject.compute_dtype},
    }
    return result, table(result, truth, protocol)


def work(subject, truth, others, protocol: Protocol) -> Work:
    """What is done to one network: every image once, those of queries with a box again."""
    describer = Describer(subject.trunk, protocol, ALONE, subject.name)
    boxed = sum(query.row is None for query in truth.queries)
    count = len(others) + len(truth.database) + boxed

    def sample(images):
        paths = [truth.database[row] for row in spread(len(truth.database), images)]
        requests = [(row, path, None) for row, path in enumerate(paths)]
        for _, image in scaled_images(requests, protocol.longest_side):
            if not isinstance(image, DataError):  # the task itself says what is wrong with it
                describer.regions(image)
        return images

    text = f"{count:,} images of {protocol.longest_side} pixels"
    return Work(text, (Part("images", count, sample, _SAMPLED),))


def read_truth(folder: str) -> Truth:
    """The ground truth of a folder, whichever of the three it has.

    Raises:
        ConfigError: none or several.
        DataError: it is damaged, or an image that it names is missing.
    """
    classic, revisited = query_files(folder), truth_files(folder)
    if classic and revisited:
        raise ConfigError(
            f"{folder!r} has both {classic[0]} and {revisited[0]}; measure on one ground truth at "
            "a time."
        )
    if classic:
        return read_oxford(folder)
    return read_revisited(folder) if revisited else groups(folder)


def evaluate(subject, truth, others, protocol, world) -> dict:
    """Mean average precision of a network.

    Args:
        subject: models.Subject.
        truth: Truth.
        others: paths of the images that whitening is fitted on.
        protocol: Protocol.
        world: Communicator.

    Returns:
        {figure: mean over its queries, in [0, 1]}; "unreadable": paths of the database that were
        left out; "whitening_unreadable": how many of `others` were.

    Raises:
        ConfigError: dimensions that network or images do not allow.
        DataError: an image that cannot be used, or nothing left to be found.
    """
    describer = Describer(subject.trunk, protocol, world, subject.name)
    ignore = protocol.ignore_unreadable
    whitening, no_use = describer.fit(others, ignore)
    requests = [(row, path, None) for row, path in enumerate(truth.database)]
    database, bad = describer.vectors(requests, whitening, ignore=ignore)
    queries = _query_vectors(describer, whitening, truth, database)
    used = [i for i, q in enumerate(truth.queries) if q.row is None or not bad[q.row]]
    found = {figure: [] for figure in truth.figures}
    left_out = np.flatnonzero(bad)
    for i, ranked in zip(used, rankings(database, queries[used])):
        for figure, answer in truth.queries[i].answers.items():
            junk = np.union1d(answer.junk, left_out)
            if len(np.setdiff1d(answer.positives, junk)):
                found[figure].append(average_precision(ranked, answer.positives, junk))
    figures = {name: float(np.mean(values)) for name, values in found.items() if values}
    if truth.figures[-1] not in figures:
        raise DataError("no query is left with an image to be found that can be read.")
    unreadable = [truth.database[row] for row in left_out]
    return figures | {"unreadable": unreadable, "whitening_unreadable": int(no_use.sum())}


def rankings(database, queries):
    """Yields for each query (n,) int64 row ids of the database by falling dot product; exact.

    Args:
        database: (n, d) float32.
        queries: (q, d) float32.
    """
    import faiss  # slow to import, and not needed by other tasks

    index = faiss.IndexFlatIP(database.shape[1])
    index.add(database)
    chunk = max(1, _RANKED // len(database))
    for start in range(0, len(queries), chunk):
        yield from index.search(queries[start : start + chunk], len(database))[1]


def table(result, truth, protocol) -> str:
    """Percentages, the paper's below."""
    lines = [
        f"retrieval ({truth.kind}) by {protocol.layer}, mean average precision in percent; "
        f"{result['queries']} queries in {result['images']} images",
        f"{'':24}" + "".join(f"{figure:>10}" for figure in truth.figures),
    ]
    for name, label in (("figures", "model"), ("random_init", "random init")):
        if found := result[name]:
            cells = [f"{100 * found[f]:.2f}" if f in found else "-" for f in truth.figures]
            lines.append(f"{label:24}" + "".join(f"{cell:>10}" for cell in cells))
    data = result["paper_dataset"]
    for method, percent in paper.RETRIEVAL.get(data, {}).items():
        lines.append(f"{'paper: ' + method:24}{percent:>10.1f}")
    if data:
        lines.append(f"paper: on {data} with its classic ground truth")
    if result["advice"]:
        lines.append(result["advice"])
    return "\n".join(lines)


def _query_vectors(describer, whitening, truth, database):
    """(q, d) float32; whole images of the database are not computed again."""
    vectors = np.empty((len(truth.queries), database.shape[1]), np.float32)
    boxed = []
    for i, query in enumerate(truth.queries):
        if query.row is None:
            boxed.append(i)
        else:
            vectors[i] = database[query.row]
    requests = [(n, truth.queries[i].path, truth.queries[i].box) for n, i in enumerate(boxed)]
    if boxed:
        vectors[boxed] = describer.vectors(requests, whitening, "queries")[0]
    return vectors
