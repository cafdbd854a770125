"""Writes a report of a run, or of a clustering, as one HTML file that opens without a network.

    dc_tf report --run=RUN --output=report.html
    dc_tf report --clusters=CLUSTERS --data=DATA --output=report.html

It shows what was trained and how it went, which images are in which clusters, how clusters agree
with labels and metadata, their colours and sizes, a map of them, and the evaluations in the folder
of the run. --compare sets other runs, or outputs of dc_tf kmeans, of the same images beside it.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.runs import check_given_run

FLAGS = CommandFlags()
RUN = FLAGS.path("run", None, "Run folder.")
CLUSTERS = FLAGS.path("clusters", None, "Without --run: output folder of dc_tf kmeans.")
DATA = FLAGS.path("data", None, "Data set folder; with --run only where it was moved.")
OUTPUT = FLAGS.path("output", None, "HTML file to write.", required=True)
STAGE = FLAGS.string("stage", "", "Of a run: clusters of this stage; without it of the last one.")
ROUND = FLAGS.integer(
    "round", None, "Of a run: clustering of the stage; None: the last one.", lower_bound=0
)
COMPARE = FLAGS.multi_path(
    "compare",
    [],
    "Run folder or output of dc_tf kmeans of the same images; may be given several times.",
)
RANDOM_INIT = FLAGS.bool(
    "random_init",
    False,
    "Of a run with up to 20,000 images: compare with clusters of an untrained network too.",
)
EVALUATIONS = FLAGS.multi_path(
    "evaluations",
    [],
    "JSON result of dc_tf evaluate besides those in the run folder; may be given several times.",
)
DUPLICATES = FLAGS.path(
    "duplicates",
    None,
    "Near-duplicates to show: output of dc_tf duplicates, or a Parquet or CSV table with the "
    "columns row and group; None: the newest output in the run folder.",
)
SHEETS = FLAGS.integer("sheets", 120, "Clusters whose images are shown.", lower_bound=0)
MAX_ROWS = FLAGS.integer(
    "max_rows", 100_000, "Images whose metadata is read; a sample of more.", lower_bound=1
)
MAX_MB = FLAGS.float(
    "max_mb", 25.0, "Largest size of the file; contact sheets are left out for it."
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace a file in --output that is no report.")


def run() -> dict:
    """Writes the report; returns where it is and what it holds."""
    check_given_run(RUN.value)  # before TensorFlow is imported
    from dc_tf.report.build import make

    return make(
        output=OUTPUT.value,
        run=RUN.value,
        clusters=CLUSTERS.value,
        data=DATA.value,
        stage=STAGE.value,
        round_index=ROUND.value,
        compare=COMPARE.value,
        random_init=RANDOM_INIT.value,
        evaluation_files=EVALUATIONS.value,
        duplicates=DUPLICATES.value,
        sheets=SHEETS.value,
        max_rows=MAX_ROWS.value,
        max_mb=MAX_MB.value,
        overwrite=OVERWRITE.value,
    )
