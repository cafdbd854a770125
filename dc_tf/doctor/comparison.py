"""Compares the facts that must be equal on all workers.

facts = rendezvous.exchange(facts_of(task, gpus, experiment) | {...})
compare(report, facts)
"""

import json
import socket

from dc_tf import experiment as experiment_lib
from dc_tf import kernels
from dc_tf.doctor import versions

# Name of the check, its fact, and the remedy where workers differ.
_SAME = (
    ("TF_CONFIG's list", "addresses", "give all workers the same cluster in TF_CONFIG"),
    ("gpu count", "gpus", "give each worker as many GPUs as the others; start one for each GPU"),
    ("kernels", "kernels", f"set {kernels.VARIABLE}=0, or 1, on all workers"),
    ("versions", "versions", "install the same on all workers: . launch/environment.sh"),
    ("settings", "settings", "start all workers with the same configuration"),
)
_SHOWN = 5


def facts_of(task, gpus, experiment) -> dict:
    """The facts about this worker that it sends to its peers, JSON-ready."""
    settings = experiment_lib.result_settings(experiment) if experiment else None
    return {
        "host": socket.gethostname(),
        "gpus": gpus,
        "kernels": kernels.name(kernels.enabled()),
        "versions": versions.installed(),
        "settings": settings and {name: str(value) for name, value in settings.items()},
        "addresses": list(task.addresses),
    }


def compare(report, facts) -> None:
    """Reports which facts agree on all workers.

    Args:
        report: Report.
        facts: {rank: `facts_of` that worker}.
    """
    hosts = ", ".join(f"{rank} on {found['host']}" for rank, found in sorted(facts.items()))
    report.ok("peers", f"all {len(facts)} workers reach each other: {hosts}", shared=True)
    for what, name, remedy in _SAME:
        same(report, what, {rank: found[name] for rank, found in facts.items()}, remedy)


def same(report, what, values, remedy) -> None:
    """Reports whether `values`, {rank: value}, are those of the chief on all workers."""
    apart = [rank for rank in sorted(values) if values[rank] != values[0]]
    if apart:
        report.fail(
            what,
            f"worker {apart[0]} differs from worker 0: {_difference(values[0], values[apart[0]])}",
            remedy,
            shared=True,
        )
    else:
        shown = "" if isinstance(values[0], (dict, list)) else f": {values[0]}"
        report.ok(what, f"the same on all workers{shown}", shared=True)


def _difference(chief, other):
    if not (isinstance(chief, dict) and isinstance(other, dict)):
        return f"{json.dumps(other)} and {json.dumps(chief)}"
    names = [n for n in sorted(chief.keys() | other.keys()) if chief.get(n) != other.get(n)]
    return ", ".join(f"{n}: {other.get(n)} and {chief.get(n)}" for n in names[:_SHOWN])
