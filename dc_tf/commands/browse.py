"""Shows the clusters of a run, or of dc_tf kmeans, in a web browser on this machine.

    dc_tf browse --run=RUN
    dc_tf browse --clusters=CLUSTERS --data=DATA

Prints an address with a token; Ctrl-C ends it. Images are read from the shards when they are looked
at. Clusters with their images by distance, metadata, the place of an image in every round, search
by text and by example; what is selected is saved in --workdir, as a list of rows for
`dc_tf curate --rows` and with the names of their files. Nothing else is written but an index there.
Others reach it only with --allow_remote.
"""

from dc_tf.commands.flags.clusters import ClusterFlags
from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import FILES, column_flag

FLAGS = CommandFlags()
SOURCE = ClusterFlags(FLAGS)
WORKDIR = FLAGS.path(
    "workdir",
    None,
    "Folder for the index and selections; None: browser in the folder of --run or --clusters.",
)
FEATURES = FLAGS.paths(
    "features",
    None,
    f"Features for search by example: {FILES}; None: those that the run has kept, or that were "
    "clustered.",
)
COLUMN = column_flag(FLAGS)
LAYER = FLAGS.string("layer", None, "Of a run or --features with several: layer to compare.")
MODEL = FLAGS.path(
    "model", None, "Run or SavedModel that made the features, where it was moved since."
)
EMBED = FLAGS.bool("embed", False, "Of a run: make features at the start if there are none.")
TABLE = FLAGS.bool(
    "table",
    True,
    "Make the table for search by text at the start if there is none; reads every record once.",
)
HOST = FLAGS.string("host", "127.0.0.1", "Address to listen at.")
PORT = FLAGS.integer("port", 0, "Port; 0: a free one.", lower_bound=0, upper_bound=65535)
ALLOW_REMOTE = FLAGS.bool(
    "allow_remote", False, "Let --host be one that other machines reach; traffic is not encrypted."
)


def run() -> dict:
    """Serves until Ctrl-C; returns the selections."""
    asked = SOURCE.values()  # refuses a wrong --run before TensorFlow is imported
    from dc_tf.report.browser.serve import browse
    from dc_tf.report.browser.site import Source

    source = Source(
        **asked,
        features=FEATURES.value,
        column=COLUMN.value,
        layer=LAYER.value,
        model=MODEL.value,
        embed=EMBED.value,
        table=TABLE.value,
    )
    return browse(source, WORKDIR.value, HOST.value, PORT.value, ALLOW_REMOTE.value)
