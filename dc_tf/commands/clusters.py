"""Writes which image is in which cluster: a table with a row per image.

    dc_tf clusters --run=RUN --output=clusters.parquet
    dc_tf clusters --clusters=CLUSTERS --data=DATA --output=clusters.csv

Columns are row id, file, cluster, sub-cluster, distance to the centroid, its ratio to the nearest
other centroid, whether the image is an outlier, size of the cluster and whether it is of a single
source, label, class, and all metadata. `dc_tf train` writes RUN/clusters.parquet for its
last round. With TF_CONFIG, many workers share the reading of images, and the chief writes. An
interrupted call resumes when it is repeated.
"""

from dc_tf.commands.flags.clusters import ClusterFlags
from dc_tf.commands.flags.define import CommandFlags

FLAGS = CommandFlags()
SOURCE = ClusterFlags(FLAGS)
OUTPUT = FLAGS.path("output", None, "File to write: .parquet, .csv or .json.", required=True)
FORMAT = FLAGS.string("format", None, "parquet, csv or json; None: by the ending of --output.")
WORKERS = FLAGS.integer(
    "workers", None, "Processes that read images; None: one per core.", lower_bound=1
)


def run() -> dict | None:
    """Writes the table; returns what it has, on the chief."""
    source = SOURCE.values()  # refuses a wrong --run before TensorFlow is imported
    from dc_tf.curation.clusters.start import write_clusters

    return write_clusters(OUTPUT.value, format=FORMAT.value, workers=WORKERS.value, **source)
