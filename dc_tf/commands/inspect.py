"""Summarizes a data set: counts, sizes, labels, metadata, and whether it is intact.

    dc_tf inspect /data/photos
    dc_tf inspect /data/photos --output=sheet.png --verify

--verify reads all records, compares them with their checksums and names each corrupt shard; the
exit code is 1 if there is one.
"""

import sys

from dc_tf import paths
from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.terminal.results import Result
from dc_tf.errors import ConfigError, DataError

FLAGS = CommandFlags()
DATA = FLAGS.path("data", None, "Folder of the data set.")
SAMPLE = FLAGS.integer(
    "sample",
    1000,
    "Number of evenly spaced rows that are read for formats, sizes and metadata.",
    lower_bound=1,
)
OUTPUT = FLAGS.path(
    "output",
    None,
    "PNG to write: a contact sheet of 64 evenly spaced images, each with its row id, class "
    "and file name; PNG.jsonl has the whole names.",
)
VERIFY = FLAGS.bool("verify", False, "Read all records and compare them with their checksums.")
WORKERS = FLAGS.integer("workers", None, "Processes; None: one per core.", lower_bound=1)
ARGUMENT = DATA  # also positional

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
        sample = list(inspection.examples(dataset, _SHEET))
        inspection.contact_sheet(sample, dataset.class_names, OUTPUT.value)
        inspection.write_sources(sample, OUTPUT.value + ".jsonl")
        report["sheet"] = OUTPUT.value
    if VERIFY.value:
        report["corrupt_shards"] = []
        for shard in verify.verify(dataset, WORKERS.value):
            report["corrupt_shards"].append(vars(shard))
            print(verify.describe(shard, dataset), file=sys.stderr, flush=True)
        _check(report)
    elif corrupt := report["sample"]["corrupt"]:
        raise DataError(
            f"{corrupt} of the {report['sample']['rows']} rows of the sample are corrupt; --verify "
            "reads everything and names the shards.",
            result=report,
        )
    return report


def _check(report):
    corrupt = report["corrupt_shards"]
    if corrupt:
        rows = sum(shard["rows"] for shard in corrupt)
        raise DataError(
            f"{len(corrupt)} of {report['shards']} shards are corrupt, {rows} of {report['rows']} "
            f"rows; the first is {corrupt[0]['shard']}: {corrupt[0]['reason']}.",
            result=report,
        )
