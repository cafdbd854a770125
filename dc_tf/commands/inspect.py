"""Shows counts, sizes, labels and metadata of a data set, and whether it is intact.

    dc_tf inspect /data/photos
    dc_tf inspect /data/photos --output=sheet.png --verify

With --verify all shards are read and compared with their checksums; corrupt ones are named, and
give exit code 1.
"""

import sys

from dc_tf import paths
from dc_tf.commands.command_flags import CommandFlags
from dc_tf.commands.results import Result
from dc_tf.errors import ConfigError, DataError

FLAGS = CommandFlags()
DATA = FLAGS.path("data", None, "Folder of the data set.")
SAMPLE = FLAGS.integer(
    "sample",
    1000,
    "Rows read for formats, sizes and metadata, evenly spaced.",
    lower_bound=1,
)
OUTPUT = FLAGS.path("output", None, "PNG file to write, with 64 of the images.")
VERIFY = FLAGS.bool("verify", False, "Read all shards and compare their checksums.")
WORKERS = FLAGS.integer("workers", None, "Processes; None: one for each core.", lower_bound=1)
ARGUMENT = DATA  # may be given without its name

_SHEET = 64


def run() -> dict:
    """Runs the command; returns the report."""
    from dc_tf.data import inspection
    from dc_tf.data.storage import verify
    from dc_tf.data.storage.manifest import Dataset

    if not DATA.value:
        raise ConfigError("no data set was given; use dc_tf inspect DATASET.")
    if OUTPUT.value:
        paths.check_file(OUTPUT.value, "--output")
    report = Result(inspection.inspect(DATA.value, SAMPLE.value), shown=True)
    print(inspection.as_text(report))
    dataset = Dataset.open(DATA.value)
    if OUTPUT.value:
        sample = inspection.examples(dataset, _SHEET)
        inspection.contact_sheet(sample, dataset.class_names, OUTPUT.value)
        report["sheet"] = OUTPUT.value
    if VERIFY.value:
        report["damage"] = []
        for damage in verify.verify(dataset, WORKERS.value):
            report["damage"].append(vars(damage))
            print(verify.describe(damage, dataset.path), file=sys.stderr, flush=True)
        _check(report)
    elif damaged := report["sample"]["damaged"]:
        raise DataError(
            f"{damaged} of the {report['sample']['rows']} rows of the sample are corrupt; --verify "
            "reads all and names the shards.",
            result=report,
        )
    return report


def _check(report):
    damage = report["damage"]
    if damage:
        rows = sum(shard["rows"] for shard in damage)
        raise DataError(
            f"{len(damage)} of {report['shards']} shards are corrupt, {rows} of {report['rows']} "
            f"rows; the first is {damage[0]['shard']}: {damage[0]['reason']}.",
            result=report,
        )
