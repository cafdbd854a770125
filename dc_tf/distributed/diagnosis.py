"""Which worker keeps the others from going on, if any.

verdict = judge(seen, addresses, timeout_s=600, answers=answers)
verdict.message     # "worker 2 (host2:2222) has not been heard of for 600 s; ..."
"""

import dataclasses
import errno
import socket

# A process that is gone is known after so long: its file has stopped and its port is closed.
GONE_S = 5.0
# How long a worker has been at its end before others are ended for it.
_SETTLED_S = 3.0
# Workers may start one after the other, however short the timeout.
_START_S = 60.0
# How much longer than the timeout something may take of which is known that it takes long.
_PATIENCE = 10


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Why the workers cannot go on.

    Attributes:
        kind: "failed", "preempted": it said so. "gone": its process has ended without a word.
            "silent": its process does not run, or cannot be reached. "stuck": it runs and does
            nothing. "absent": it never came. "cut off": an exchange broke, and it cannot be
            reached. "waiting": all wait for one another.
        rank: of the worker; that of the first for "waiting".
        message: for people.
    """

    kind: str
    rank: int
    message: str


def judge(seen, addresses, timeout_s, answers) -> Verdict | None:
    """The first reason to stop, the clearest first, as the first worker judges all.

    Args:
        seen: {rank: pulses.Seen} of the workers that are judged.
        addresses: "host:port" by rank; empty for a process alone.
        timeout_s: seconds that a worker may be silent, or do nothing; at its start at least 60.
        answers: function of an address to True, False where the host says that nothing listens,
            or None where nothing comes back.
    """
    rules = (_said_so, _gone, _cut_off, _silent, _stuck, _waiting)
    return _first(rules, seen, addresses, timeout_s, answers)


def judge_judge(seen, addresses, timeout_s, answers) -> Verdict | None:
    """As `judge`, of the first worker by another: that it waits or is idle is its own to say."""
    return _first((_said_so, _gone, _silent), {0: seen}, addresses, timeout_s, answers)


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
    words = one.words or {}
    if one.silent_s < _SETTLED_S:  # this worker may be about to end for the same reason
        return None
    if words.get("end") == "failed":
        text = f"{name(rank, addresses)} failed: {words.get('message', '')}"
        return Verdict("failed", rank, text)
    if words.get("end") == "preempted":
        return Verdict("preempted", rank, f"{name(rank, addresses)} was told to stop and has saved")
    return None


def _gone(rank, one, seen, addresses, timeout_s, answers):
    if one.words is None or one.words.get("end") or one.silent_s < min(GONE_S, timeout_s):
        return None
    if not addresses or answers(addresses[rank]) is not False:
        return None
    text = (
        f"{name(rank, addresses)} has ended without a word, at {one.words['phase']!r}: nothing "
        "listens at its address any more. It was killed (out of memory?) or has crashed; see its "
        "log."
    )
    return Verdict("gone", rank, text)


def _cut_off(rank, one, seen, addresses, timeout_s, answers):
    """An exchange broke on some worker: TensorFlow has lost one, but does not say which."""
    if not (one.words or {}).get("broken"):
        return None
    lost = [r for r, s in seen.items() if not (s.words or {}).get("end")]
    lost = [r for r in lost if answers(addresses[r]) is None]
    if not lost:
        return None
    text = f"an exchange broke: {', '.join(name(r, addresses) for r in lost)} cannot be reached."
    return Verdict("cut off", lost[0], text)


def _silent(rank, one, seen, addresses, timeout_s, answers):
    if one.silent_s < timeout_s or (one.words or {}).get("end"):
        return None
    if one.words is None:
        if one.silent_s < _START_S:
            return None
        text = (
            f"{name(rank, addresses)} has not started within {one.silent_s:.0f} s, or does not see "
            "the folder that this worker writes to."
        )
        return Verdict("absent", rank, text)
    text = (
        f"{name(rank, addresses)} has not been heard of for {one.silent_s:.0f} s, last at "
        f"{one.words['phase']!r}: its process is stopped, or its host cannot be reached."
    )
    return Verdict("silent", rank, text)


def _stuck(rank, one, seen, addresses, timeout_s, answers):
    words = one.words or {}
    waits = words.get("waits") and addresses  # one worker alone waits for nobody
    if waits or words.get("end") or not _idle(words, timeout_s):
        return None
    text = (
        f"{name(rank, addresses)} has done nothing for {words['idle_s']:.0f} s, at "
        f"{words['phase']!r}, while its process runs."
    )
    return Verdict("stuck", rank, text)


def _waiting(rank, one, seen, addresses, timeout_s, answers):
    """All who are left wait, the judge among them: a network that lost something."""
    left = {r: s.words for r, s in seen.items() if s.words and not s.words.get("end")}
    if rank != min(left, default=None) or not addresses:
        return None
    if not all(words.get("waits") and _idle(words, timeout_s) for words in left.values()):
        return None
    lost = [r for r in left if answers(addresses[r]) is not True]
    phases = "; ".join(f"worker {r} at {words['phase']!r}" for r, words in left.items())
    culprits = ", ".join(name(r, addresses) for r in lost)
    text = f"all workers have waited for one another for {timeout_s:.0f} s ({phases})"
    text += f"; {culprits} cannot be reached." if lost else "; all can be reached."
    return Verdict("waiting", lost[0] if lost else rank, text)


def _idle(words, timeout_s):
    return words.get("idle_s", 0) >= timeout_s * (_PATIENCE if words.get("patient") else 1)
