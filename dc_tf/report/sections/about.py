"""What was trained on what, for how long, with which versions, and what to be warned of.

facts_of(run, log), warnings_of(run.dataset, log, evaluations)
"""

import collections
import itertools
import json
import os

from dc_tf.data.convert import REJECTED
from dc_tf.data.storage import files

_REASONS = 3  # shown of the reasons why files were rejected
_READ = 100_000  # lines of the list of rejected files that are read


def duration(seconds) -> str:
    """ "3.2 s", "4:05 min", "2:03:10 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} h" if hours else f"{minutes}:{seconds:02d} min"


def warnings_of(dataset, read, evaluations, training: dict) -> list[str]:
    """Sentences about what went wrong.

    Args:
        dataset: Dataset.
        read: columns.Found, what this report has read of it.
        evaluations: evaluations.Found.
        training: of `content.of_training`; its `log` is None for a clustering of embeddings.
    """
    found = []
    if training["failed_step"]:
        step = training["failed_step"].get("global_step")
        found.append(f"Training ended at step {step}, where the loss was not finite.")
    if training["log"] is not None:
        found += _of_log(training["log"])
    if read.corrupt:
        found.append(
            f"{read.corrupt:,} of the {len(read.rows):,} rows that this report has read are "
            "corrupt."
        )
    found += _rejected(dataset)
    return found + _below_untrained(evaluations)


def _below_untrained(evaluations):
    """What ends below an untrained network of the same shape."""
    found = []
    for result in evaluations.by_layer:
        if result.below:
            layers = ", ".join(result.below)
            one = len(result.below) == 1
            ends = "ends below the same layer" if one else "end below the same layers"
            found.append(f"{result.title}: {layers} {ends} of an untrained network.")
    return found + [f"{one.title}: {one.advice}" for one in evaluations.plain if one.advice]


def _of_log(log):
    """Corrupt rows, and what the last clustering of each stage has warned of."""
    found = []
    if isinstance(log.data.get("corrupt_rows"), int):
        found.append(f"{log.data['corrupt_rows']:,} corrupt rows were found in training.")
    last = {line.get("stage"): line for line in log.clusterings}
    for line in last.values():
        found += [f"Round {line.get('round')}: {text}" for text in sentences(line)]
    return found


def sentences(found: dict) -> list[str]:
    """The `warnings` of a JSON object."""
    texts = found.get("warnings")
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _rejected(dataset):
    """How many files did not become rows, and why most of them."""
    path = os.path.join(dataset.path, REJECTED)
    if not files.exists(path):
        return []
    with files.opened(path, "r") as file:
        reasons = collections.Counter(map(_reason, itertools.islice(file, _READ)))
    count = reasons.total()
    if not count:
        return []
    most = "; ".join(f"{reason} ({times:,})" for reason, times in reasons.most_common(_REASONS))
    more = "At least " if count == _READ else ""
    return [f"{more}{count:,} files did not become rows of the data set: {most}."]


def _reason(line):
    try:
        found = json.loads(line)
    except ValueError:
        return "unknown reason"
    reason = found.get("reason") if isinstance(found, dict) else None
    return reason[:80] if isinstance(reason, str) else "unknown reason"
