"""Assigns the images of another data set to the clusters of a run or of `dc_tf kmeans`.

    dc_tf assign --run=RUN --data=NEW --output=new.parquet
    dc_tf assign --clusters=CLUSTERS --data=NEW --output=new.parquet

Images go through the network, the whitening and the centroids of the clustering. A run keeps those
of its newest rounds (setting keep_clusterings). The table has the columns of `dc_tf clusters`. With
TF_CONFIG, many workers share the images, and the chief writes. An interrupted call resumes when it
is repeated.
"""

from dc_tf.commands.flags.clusters import ClusterFlags
from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import column_flag

FLAGS = CommandFlags()
SOURCE = ClusterFlags(FLAGS, "Data set folder with the images to assign.")
FEATURES = FLAGS.paths(
    "features",
    None,
    "With --clusters of vectors that dc_tf embed has not made: the vectors of --data, as of "
    "dc_tf search.",
)
COLUMN = column_flag(FLAGS)
OUTPUT = FLAGS.path("output", None, "File to write: .parquet, .csv or .json.", required=True)
FORMAT = FLAGS.string("format", None, "parquet, csv or json; None: by the ending of --output.")


def run() -> dict | None:
    """Assigns and writes the table; returns what it has, on the chief."""
    source = SOURCE.values()  # refuses a wrong --run before TensorFlow is imported
    from dc_tf.curation.clusters.start import assign

    return assign(
        output=OUTPUT.value,
        format=FORMAT.value,
        features=FEATURES.value,
        column=COLUMN.value,
        **source,
    )
