"""What was trained on what, for how long, with which versions, and what to be warned of.

facts_of(run, log), warnings_of(run.dataset, log, evaluations)
"""

import collections
import importlib.metadata
import itertools
import json
import os

import dc_tf
from dc_tf.data.convert import REJECTED
from dc_tf.data.storage import files

_PACKAGES = ("tensorflow", "numpy", "faiss-cpu", "faiss-gpu", "pillow")
_REASONS = 3  # shown of the reasons why files were rejected
_READ = 100_000  # lines of the list of rejected files that are read


def versions() -> dict:
    """{package: version} of this process."""
    found = {"dc_tf": dc_tf.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def duration(seconds) -> str:
    """ "3.2 s", "4:05 min", "2:03:10 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} h" if hours else f"{minutes}:{seconds:02d} min"


def warnings_of(dataset, log=None, evaluations=None, corrupt=0, read=0, failed_step=None) -> list:
    """Sentences about what went wrong.

    Args:
        dataset: Dataset.
        log: curves.Log of a run, or None.
        evaluations: evaluations.Found, or None.
        corrupt, read: rows of this report that could not be read, of so many.
        failed_step: what `failed_step.json` holds, or None.
    """
    found = []
    if failed_step:
        found.append(
            f"Training ended at step {failed_step.get('global_step')}, where the loss was not "
            "finite."
        )
    if log is not None:
        found += _of_log(log)
    if corrupt:
        found.append(f"{corrupt:,} of the {read:,} rows that this report has read are corrupt.")
    found += _rejected(dataset)
    for result in evaluations.by_layer if evaluations else ():
        if result.below:
            layers = ", ".join(result.below)
            found.append(
                f"{result.title}: {layers} end below the same layers of an untrained network."
            )
    return found


def _of_log(log):
    """Damaged rows, and what the last clustering of each stage has warned of."""
    found = []
    if log.data.get("damaged_rows"):
        found.append(f"{log.data['damaged_rows']:,} damaged rows were met in training.")
    last = {line.get("stage"): line for line in log.clusterings}
    for line in last.values():
        texts = line.get("warnings") or ()
        found += [f"Round {line.get('round')}: {text}" for text in texts if isinstance(text, str)]
    return found


def _rejected(dataset):
    """How many files did not become rows, and why most of them."""
    path = os.path.join(dataset.path, REJECTED)
    if not files.exists(path):
        return []
    reasons, count = collections.Counter(), 0
    with files.opened(path, "r") as file:
        for count, line in enumerate(itertools.islice(file, _READ), 1):
            reasons[_reason(line)] += 1
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
