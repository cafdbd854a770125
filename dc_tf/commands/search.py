"""Finds the images of a collection that are nearest to some images.

    dc_tf search --run=RUN --query=holiday.jpg --query=7 --sheet=found.jpg
    dc_tf search --features='FEATURES' --data=DATA --query=holiday.jpg --output=found.csv

A query is an image file, embedded by the network that made the features, or a row id of the
collection. Images are compared by the cosine of their whitened features: with every row up to a
million rows, beyond through an inverted file that is built once beside the features and whose
recall is part of the result; --exact compares with every row all the same. With TF_CONFIG, many
workers share the making of features and of the inverted file; then the chief searches, on all
its cores.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import FeatureFlags
from dc_tf.commands.terminal.results import Result

FLAGS = CommandFlags()
QUERY = FLAGS.multi_path(
    "query",
    None,
    "Image file, or row id of the collection; may be given several times.",
    required=True,
)
SOURCE = FeatureFlags(FLAGS)
K = FLAGS.integer("k", 10, "Neighbours of each query.", lower_bound=1)
EXACT = FLAGS.bool("exact", False, "Compare with every row, however many there are.")
WHITEN = FLAGS.integer(
    "whiten",
    256,
    "Directions that the features are whitened to, as for clustering; 0 compares them as they are.",
    lower_bound=0,
)
OUTPUT = FLAGS.path("output", None, "Table to write: .csv, .json or .parquet.")
SHEET = FLAGS.path(
    "sheet", None, "Picture to write, .jpg or .png: a line for each query, with its neighbours."
)
MODEL = FLAGS.path(
    "model", None, "Run or SavedModel that made --features, where it was moved since."
)


def run() -> dict | None:
    """Searches; returns the neighbours, on the chief."""
    source = SOURCE.values()  # refuses a wrong --run before TensorFlow is imported
    from dc_tf.curation.search.find import as_text, search_and_write

    found = search_and_write(
        QUERY.value,
        **source,
        k=K.value,
        exact=EXACT.value,
        output=OUTPUT.value,
        sheet=SHEET.value,
        model=MODEL.value,
        whiten=WHITEN.value,
    )
    if found is None:
        return None
    print(as_text(found), flush=True)
    return Result(found, shown=True, path=OUTPUT.value, flag="--output")
