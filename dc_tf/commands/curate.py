"""Chooses a part of a data set, balanced or by other rules, as a view that copies no image.

    dc_tf curate --data=DATA --features=FEATURES --target=10000 --output=BALANCED
    dc_tf curate --data=DATA --clusters=CLUSTERS --max_per_cluster=50 --output=EVEN
    dc_tf curate --data=DATA --where=meta/hashtag=sea --drop_rows=blurred.txt --output=SEA
    dc_tf curate --data=VIEW --materialize=TARS --format=webdataset

--target clusters the features on several levels and takes an even share of every branch (Vo et al.
2024). The clusters stay in OUTPUT.tree, so that another target or seed costs seconds. Rules act in
this order: rows, drop_rows, where, drop_outliers, drop_sparsest, drop_rarest, max_per_cluster,
target. Any command takes the view as its data set; OUTPUT/sources.jsonl names the file of each row:
{"row": 0, "source": "dogs/rex.jpg"}. Started again, it resumes; with TF_CONFIG, many
workers share the records that --where reads and the clustering, and the chief does the rest.
SIGTERM and Ctrl-C save and end with exit code 42.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import FeatureFlags
from dc_tf.curation.selection.request import CurateRequest
from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import CHOICES, COMMAND_OPTIONS

FLAGS = CommandFlags()
SOURCE = FeatureFlags(FLAGS)
OUTPUT = FLAGS.path("output", None, "Folder of the view.")
TARGET = FLAGS.integer("target", None, "Rows of the balanced subset.", lower_bound=1)
MAX_PER_CLUSTER = FLAGS.integer(
    "max_per_cluster", None, "Keep at most so many rows of a cluster.", lower_bound=1
)
DROP_OUTLIERS = FLAGS.float(
    "drop_outliers", 0.0, "Drop this share of the rows: those farthest from their centroid."
)
DROP_SPARSEST = FLAGS.float(
    "drop_sparsest",
    0.0,
    "Drop whole clusters of at most this share of the rows, the most spread out first.",
)
DROP_RAREST = FLAGS.float(
    "drop_rarest",
    0.0,
    "Drop whole clusters of at most this share of the rows, the smallest first.",
)
WHERE = FLAGS.multi_string(
    "where",
    None,
    "Keep rows that fulfil this, such as meta/hashtag=sea, 'meta/year>=1984', label!=3, class=cat; "
    "may be given several times, and then all have to hold.",
)
ROWS = FLAGS.path(
    "rows",
    None,
    'Keep these: a .npy file of row ids, a text file, one a line, or a .jsonl file with {"row": 7} '
    "in each, as browse writes.",
)
DROP_ROWS = FLAGS.path("drop_rows", None, "Drop these; files as of --rows.")
CHOICE = FLAGS.enum(
    "choice",
    "random",
    ["random", "nearest"],
    "Which rows of a cluster are taken: drawn ones, or those nearest to its centroid.",
)
CLUSTERS = FLAGS.path(
    "clusters",
    None,
    "Use these clusters, without a tree: output folder of dc_tf kmeans, or a run (its last round).",
)
LEVELS = FLAGS.list(
    "levels",
    None,
    "Clusters of each level of the tree, such as 10000,1000,100; None: a hundredth of the rows, "
    "then tenths.",
)
ROUNDS = FLAGS.integer(
    "rounds",
    10,
    "Each level is clustered again so often, on equally many rows of every cluster; 0: plain "
    "k-means.",
    lower_bound=0,
)
SAMPLE = FLAGS.integer(
    "sample",
    None,
    "Rows of each cluster in these rounds, those nearest its centroid; None: half the average size "
    "of a cluster.",
    lower_bound=1,
)
ITERATIONS = FLAGS.integer(
    "iterations", COMMAND_OPTIONS.iterations, "Of each k-means.", lower_bound=1
)
SEED = FLAGS.integer("seed", 0, "Of everything that is drawn.", lower_bound=0)
PRECISION = FLAGS.enum(
    "precision",
    COMMAND_OPTIONS.precision,
    list(CHOICES["precision"]),
    "Of the products of k-means; auto measures which is faster on all workers. A tree that was "
    "begun keeps what it began with.",
)
NORMALIZE = FLAGS.bool("normalize", True, "Scale every row of the features to length 1.")
TREE = FLAGS.path(
    "tree", None, "Folder of the tree of clusters, made or used again; None: OUTPUT.tree."
)
DRY_RUN = FLAGS.bool("dry_run", False, "Print how many rows each rule leaves; write no view.")
MATERIALIZE = FLAGS.path("materialize", None, "Folder for a copy of the chosen images.")
FORMAT = FLAGS.enum(
    "format",
    "shards",
    ["shards", "webdataset", "folder"],
    "Of the copy: a data set with shards of its own, tar files, or a folder for each class.",
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace what is in --output and --materialize.")
TIMEOUT_S = FLAGS.float(
    "timeout_s",
    600.0,
    "Seconds that a worker may be silent before the others end, and say so; 0: for ever.",
    lower_bound=0,
)


def run() -> dict | None:
    """Chooses the rows; returns the result on the chief."""
    # What is wrong is refused before TensorFlow is imported.
    asked = dict(
        **SOURCE.values(),
        output=OUTPUT.value,
        target=TARGET.value,
        max_per_cluster=MAX_PER_CLUSTER.value,
        drop_outliers=DROP_OUTLIERS.value,
        drop_sparsest=DROP_SPARSEST.value,
        drop_rarest=DROP_RAREST.value,
        where=tuple(WHERE.value or ()),
        rows=ROWS.value,
        drop_rows=DROP_ROWS.value,
        choice=CHOICE.value,
        clusters=CLUSTERS.value,
        levels=_levels(),
        rounds=ROUNDS.value,
        sample=SAMPLE.value,
        iterations=ITERATIONS.value,
        seed=SEED.value,
        precision=PRECISION.value,
        normalize=NORMALIZE.value,
        tree=TREE.value,
        dry_run=DRY_RUN.value,
        materialize=MATERIALIZE.value,
        format=FORMAT.value,
        overwrite=OVERWRITE.value,
        timeout_s=TIMEOUT_S.value,
    )
    CurateRequest(**asked).check()
    from dc_tf.curation.selection.curate import curate

    return curate(**asked)


def _levels():
    if LEVELS.value is None:
        return None
    try:
        return tuple(int(number) for number in LEVELS.value)
    except ValueError as error:
        raise ConfigError(
            f"--levels={','.join(LEVELS.value)}; give numbers of clusters, such as 1000,100,10."
        ) from error
