"""Finds the worker that blocks the others, if there is one.

diagnosis = diagnose(seen, addresses, timeout_s=600, answers=answers)
diagnosis.message     # "worker 2 (host2:2222) has sent no heartbeat for 600 s, ..."
"""

import dataclasses
import errno
import socket

# A process whose port is closed counts as gone after so many seconds without a heartbeat.
GONE_S = 5.0
# Others end so many seconds after a worker has reported its end.
_SETTLED_S = 3.0
# Workers may start one after the other, however short the timeout.
_START_S = 60.0
# The timeout of a slow operation is so many times as long.
_SLOW_FACTOR = 10


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Why the workers cannot continue.

    Attributes:
        kind: "failed", "preempted": the worker reported it. "gone": its process ended without
            reporting why. "silent": its process is stopped, or its host cannot be reached. "stuck":
            it runs without progress. "absent": it never started. "cut off": a collective broke, and
            it cannot be reached. "waiting": all wait for one another.
        rank: of the worker; the lowest for "waiting".
        message: for people.
    """

    kind: str
    rank: int
    message: str


def diagnose(seen, addresses, timeout_s, answers) -> Diagnosis | None:
    """The reason to end all workers as the chief finds it, the clearest kind first, or None.

    Args:
        seen: {rank: heartbeat_files.Seen} of all workers.
        addresses: "host:port" by rank; empty for a process alone.
        timeout_s: seconds without a heartbeat or progress before a worker counts as silent or
            stuck; at its start, at least 60.
        answers: function of an address to True, False where the host says that nothing listens,
            or None where there is no reply.
    """
    rules = (_restarted, _said_so, _gone, _cut_off, _silent, _stuck, _waiting)
    return _first(rules, seen, addresses, timeout_s, answers)


def diagnose_chief(seen, addresses, timeout_s, answers) -> Diagnosis | None:
    """Diagnoses the chief from another worker; idleness is left to the chief."""
    return _first((_restarted, _said_so, _gone, _silent), {0: seen}, addresses, timeout_s, answers)


def _first(rules, seen, addresses, timeout_s, answers):
    for rule in rules:
        for rank, one in sorted(seen.items()):
            found = rule(rank, one, seen, addresses, timeout_s, answers)
            if found:
                return found
    return None


def answers(address: str, timeout_s=2.0) -> bool | None:
    """Whether a process listens at "host:port"; None if that cannot be known."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s):
            return True
    except OSError as error:
        return False if error.errno == errno.ECONNREFUSED else None


def name(rank, addresses) -> str:
    return f"worker {rank} ({addresses[rank]})" if addresses else f"worker {rank}"


def _said_so(rank, one, seen, addresses, timeout_s, answers):
    status = one.status or {}
    if one.silent_s < _SETTLED_S:  # this worker may be about to end for the same reason
        return None
    if status.get("end") == "failed":
        text = f"{name(rank, addresses)} failed: {status.get('message', '')}"
        return Diagnosis("failed", rank, text)
    if status.get("end") == "preempted":
        text = f"{name(rank, addresses)} was asked to stop and has saved its state."
        return Diagnosis("preempted", rank, text)
    return None


def _restarted(rank, one, seen, addresses, timeout_s, answers):
    """A platform that starts each worker by itself is quicker than any sign of the death."""
    if not one.restarted:
        return None
    text = f"{name(rank, addresses)} ended without reporting why, and has started again by itself."
    return Diagnosis("gone", rank, text)


def _gone(rank, one, seen, addresses, timeout_s, answers):
    if one.status is None or one.status.get("end") or one.silent_s < min(GONE_S, timeout_s):
        return None
    if not addresses or answers(addresses[rank]) is not False:
        return None
    text = (
        f"{name(rank, addresses)} ended without reporting why, in the phase "
        f"{one.status['phase']!r}: nothing listens at its address any more. It crashed or was "
        "killed (out of memory?); see its log."
    )
    return Diagnosis("gone", rank, text)


def _cut_off(rank, one, seen, addresses, timeout_s, answers):
    """A collective broke on some worker: TensorFlow lost a peer, but does not say which."""
    if not (one.status or {}).get("broken"):
        return None
    lost = [r for r, s in seen.items() if not (s.status or {}).get("end")]
    lost = [r for r in lost if answers(addresses[r]) is None]
    if not lost:
        return None
    text = f"a collective broke: {', '.join(name(r, addresses) for r in lost)} cannot be reached."
    return Diagnosis("cut off", lost[0], text)


def _silent(rank, one, seen, addresses, timeout_s, answers):
    if one.silent_s < timeout_s or (one.status or {}).get("end"):
        return None
    if one.status is None:
        if one.silent_s < _START_S:
            return None
        text = (
            f"{name(rank, addresses)} has not started within {one.silent_s:.0f} s, or does not see "
            "the folder that this worker writes to."
        )
        return Diagnosis("absent", rank, text)
    text = (
        f"{name(rank, addresses)} has sent no heartbeat for {one.silent_s:.0f} s, last in the "
        f"phase {one.status['phase']!r}: its process is stopped, or its host cannot be reached."
    )
    return Diagnosis("silent", rank, text)


def _stuck(rank, one, seen, addresses, timeout_s, answers):
    status = one.status or {}
    waits = status.get("waits") and addresses  # a worker alone waits for none
    if waits or status.get("end") or not _idle(status, timeout_s):
        return None
    text = (
        f"{name(rank, addresses)} has made no progress for {status['idle_s']:.0f} s, in the phase "
        f"{status['phase']!r}, while its process runs."
    )
    return Diagnosis("stuck", rank, text)


def _waiting(rank, one, seen, addresses, timeout_s, answers):
    """All workers that have not ended wait, the chief among them: the network lost a message."""
    left = {r: s.status for r, s in seen.items() if s.status and not s.status.get("end")}
    if rank != min(left, default=None) or not addresses:
        return None
    if not all(status.get("waits") and _idle(status, timeout_s) for status in left.values()):
        return None
    lost = [r for r in left if answers(addresses[r]) is not True]
    phases = "; ".join(f"worker {r} at {status['phase']!r}" for r, status in left.items())
    culprits = ", ".join(name(r, addresses) for r in lost)
    text = f"all workers have waited for one another for {timeout_s:.0f} s ({phases})"
    text += f"; {culprits} cannot be reached." if lost else "; all can be reached."
    return Diagnosis("waiting", lost[0] if lost else rank, text)


def _idle(status, timeout_s):
    return status.get("idle_s", 0) >= timeout_s * (_SLOW_FACTOR if status.get("slow") else 1)
