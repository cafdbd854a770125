"""Every worker's heartbeat as a small file in a folder that all workers share.

    files = HeartbeatFiles("/runs/mine/heartbeats", task)
    files.write({"phase": "extract"})
    seen = files.look(rank=2)          # Seen(status={"phase": ...}, silent_s=0.8)

Clocks need not agree: a worker is silent for as long as its file was seen unchanged, and time in
which this process could not look does not count. A file that was there at the first look may come
from an earlier incarnation of the worker and is ignored, until `rendezvous_done`; so is one of a
worker whose rendezvous was with an earlier incarnation of this process.

    files.try_rendezvous()             # again and again, until it returns True

Every process has an incarnation, a random id. The chief publishes its peers' incarnations once each
peer has acknowledged the chief's, so no file of an earlier incarnation can complete a rendezvous.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import time
import uuid

LONGEST_LOOK = 2  # periods between two looks that count; beyond, the process was suspended
_KEEP_S = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class Seen:
    """A worker's state as another worker reads it.

    Attributes:
        status: what it last wrote; None if nothing since this process first looked.
        silent_s: seconds since it last wrote, or since this process first looked.
        restarted: whether another incarnation of it has written since the rendezvous.
    """

    status: dict | None
    silent_s: float
    restarted: bool = False


class HeartbeatFiles:
    """The heartbeat files of the workers that were started together.

    Args:
        folder: shared by all workers. A set of workers, known by its addresses, has a folder of
            its own in it, so that a rejected set does not disturb a running one.
        task: task.TaskSpec of this worker.
        period_s: seconds between two reads.
    """

    def __init__(self, folder, task, period_s=1.0):
        name = hashlib.sha256(" ".join(task.addresses).encode()).hexdigest()[:12]
        self._parent = folder
        self._folder = os.path.join(folder, name)
        self._rank, self._size = task.rank, task.size
        self._incarnation = uuid.uuid4().hex[:12]
        self._count = 0
        self._longest_s = LONGEST_LOOK * period_s
        self._rendezvous_done = False
        self._status, self._acknowledged = {}, {}
        self._lock = threading.Lock()  # both the watchdog and the rendezvous write
        self._known = {}  # rank: (mark, s unchanged, time of the last read, ever changed)
        os.makedirs(self._folder, exist_ok=True)

    def write(self, status: dict) -> None:
        """Replaces this worker's status; JSON-ready."""
        with self._lock:
            self._status = status
            self._write()

    def try_rendezvous(self) -> bool:
        """Takes one step of the rendezvous; True once all workers are present and know it."""
        if self._rank:
            chief = self._read(0) or {}
            self._acknowledge({"chief": chief.get("incarnation")})
            return chief.get("peers", {}).get(str(self._rank)) == self._incarnation
        others = [self._read(rank) or {} for rank in range(1, self._size)]
        if not all(map(self._acknowledges, others)):
            return False
        peers = {rank: status["incarnation"] for rank, status in enumerate(others, 1)}
        self._acknowledge({"peers": peers})
        return True

    def missing_ranks(self) -> list[int]:
        """Ranks whose acknowledgement the chief lacks; other workers wait for the chief."""
        if self._rank:
            return [0]
        ranks = range(1, self._size)
        return [rank for rank in ranks if not self._acknowledges(self._read(rank) or {})]

    def _acknowledges(self, status):
        return status.get("chief") == self._incarnation

    def _acknowledge(self, acknowledged):
        with self._lock:
            if acknowledged != self._acknowledged:
                self._acknowledged = acknowledged
                self._write()

    def _write(self):
        self._count += 1
        status = self._status | self._acknowledged
        status |= {"incarnation": self._incarnation, "count": self._count, "pid": os.getpid()}
        path = self._path(self._rank)
        # Not `atomic`: a heartbeat every second need not survive a crash of the machine.
        staging = f"{path}.{self._incarnation}"
        with open(staging, "w", encoding="utf-8") as file:
            json.dump(status, file)
        os.replace(staging, path)

    def rendezvous_done(self) -> None:
        """From now on every file counts as written by the current incarnation of its worker."""
        self._rendezvous_done = True

    def look(self, rank: int) -> Seen:
        """The status of worker `rank`, and for how long it has been unchanged."""
        status = self._read(rank)
        mark = (status["incarnation"], status["count"]) if status else None
        now = time.monotonic()
        before, silent_s, looked, alive = self._known.get(rank, (mark, 0.0, now, False))
        silent_s += min(now - looked, self._longest_s)
        if mark != before:
            silent_s, alive = 0.0, True
        self._known[rank] = (mark, silent_s, now, alive)
        if self._rendezvous_done:
            return Seen(status, silent_s, bool(status) and self._is_another(rank, status))
        if status and self._is_of_earlier_set(rank, status):
            return Seen(None, 0.0)
        return Seen(status if alive else None, silent_s)

    def _is_another(self, rank, status):
        """Whether a status is of another incarnation of a worker than that of the rendezvous."""
        known = self._acknowledged.get("peers", {}).get(rank)
        if rank == 0:
            known = self._acknowledged.get("chief")
        return known not in (None, status["incarnation"])

    def _is_of_earlier_set(self, rank, status):
        """Whether a worker held its rendezvous with an earlier set, and so will end soon."""
        if self._rank == 0:
            return status.get("chief") not in (None, self._incarnation)
        if rank == 0 and "peers" in status:
            return status["peers"].get(str(self._rank)) != self._incarnation
        return False

    def remove_old(self) -> None:
        """Removes the folders of sets of workers that have written nothing for a week."""
        for name in os.listdir(self._parent):
            path = os.path.join(self._parent, name)
            if path != self._folder and time.time() - os.path.getmtime(path) > _KEEP_S:
                shutil.rmtree(path, ignore_errors=True)

    def _read(self, rank):
        try:
            with open(self._path(rank), encoding="utf-8") as file:
                status = json.load(file)
        except (OSError, ValueError):  # not written yet, or replaced during the read
            return None
        return status if {"incarnation", "count"} <= status.keys() else None

    def _path(self, rank):
        return os.path.join(self._folder, f"worker-{rank:05d}.json")
