"""Finds copies in a collection of images, and which image of each group to keep; deletes nothing.

    dc_tf duplicates --run=RUN --dry_run                          # how many would go
    dc_tf duplicates --run=RUN --output=COPIES
    dc_tf duplicates --features=FEATURES --data=DATA --output=COPIES --threshold=0.9
    dc_tf train --params_override=data.path=COPIES/kept ...       # a view of what stays

Copies have the same bytes, the same pixels once decoded, or features with a cosine of at least
--threshold (see benchmarks/results/duplicates.md for what it finds). Features are looked at within
clusters and between those next to each other; up to 32,768 rows every pair is. Copies of copies are
one group. Of a group the largest picture stays; of several, the one nearest the centroid of its
cluster, then the one with the lowest row id.

COPIES/duplicates.parquet has group, row, source, kind, similarity, width, height and keeper;
COPIES/keep.npy the rows that stay, COPIES/keep.jsonl the same with the names of their files, as in
{"row": 0, "source": "dogs/rex.jpg"}, COPIES/kept a view of them, COPIES/gallery.html pictures. With
TF_CONFIG, many workers share the work in COPIES, a folder that all see, and the chief writes.
Call it again to resume; SIGTERM and Ctrl-C end it with exit code 42.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import FeatureFlags
from dc_tf.commands.terminal.results import Result

FLAGS = CommandFlags()
SOURCE = FeatureFlags(
    FLAGS,
    layer_of_run="conv9 (of a ResNet the last block2) in 2 x 2 cells of image and mirror image, "
    "which finds copies best",
)
CLUSTERS = FLAGS.path(
    "clusters",
    None,
    "Run, or output of dc_tf kmeans over --features: look within its clusters; without it clusters "
    "are made.",
)
OUTPUT = FLAGS.path("output", None, "Folder for table, rows to keep, view and gallery.")
DRY_RUN = FLAGS.bool("dry_run", False, "Only say how many would go; write nothing.")
THRESHOLD = FLAGS.float("threshold", 0.8, "Least cosine of near copies, above 0 and at most 1.")
WHITEN = FLAGS.integer(
    "whiten",
    256,
    "Directions that the features are whitened to, as for clustering; 0 compares them as they are.",
    lower_bound=0,
)
PIXELS = FLAGS.bool("pixels", True, "Decode all images, to find equal pixels in different files.")
WORKERS = FLAGS.integer(
    "workers", None, "Processes that decode images; None: one for each core.", lower_bound=1
)
K = FLAGS.integer(
    "k",
    0,
    "Clusters that are made; 0: one up to 32,768 rows, else the square root of their number.",
    lower_bound=0,
)
NEIGHBOURS = FLAGS.integer(
    "neighbours", 4, "Clusters next to a row's own that it is compared with.", lower_bound=0
)
SEED = FLAGS.integer("seed", 0, "Of the clusters that are made.", lower_bound=0)
FORMAT = FLAGS.enum("format", "parquet", ["parquet", "csv"], "Of the table.")
GROUPS = FLAGS.integer("groups", 100, "Groups in the gallery.", lower_bound=0)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace a result of other settings in --output.")


def run() -> dict | None:
    """Finds copies; returns how many there are, on the chief."""
    source = SOURCE.values()  # refuses a wrong --run before TensorFlow is imported
    from dc_tf.report.duplicates.run import as_text, find_and_write

    found = find_and_write(
        **source,
        clusters=CLUSTERS.value,
        output=OUTPUT.value,
        dry_run=DRY_RUN.value,
        threshold=THRESHOLD.value,
        whiten=WHITEN.value,
        pixels=PIXELS.value,
        workers=WORKERS.value,
        k=K.value,
        neighbours=NEIGHBOURS.value,
        seed=SEED.value,
        format=FORMAT.value,
        groups=GROUPS.value,
        overwrite=OVERWRITE.value,
    )
    if found is None:
        return None
    print(as_text(found), flush=True)
    return Result(found, shown=True)
