"""The pulses of all workers of a run, as small files in the folder that they share.

    pulses = Pulses("/runs/mine/pulses", task)
    pulses.write({"phase": "extract"})
    seen = pulses.look(rank=2)          # Seen(words={"phase": ...}, silent_s=0.8)

No two clocks need to agree: a worker is as silent as its file has been unchanged while we looked;
time in which this process could not look says nothing about others. What lay there before we first
looked may be of an earlier life and counts for nothing, until `all_are_here`.

    pulses.meets()                      # ask again and again, until all workers are there

Every process has a life, a name that no other has. The first worker says which lives it hears,
once each has said that it hears the first one's; so no word of an earlier life can be meant.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import time
import uuid

_KEEP_S = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class Seen:
    """A worker as another one sees it.

    Attributes:
        words: what it last said; None if it has said nothing since we look.
        silent_s: seconds since it last said something, or since we look.
    """

    words: dict | None
    silent_s: float


class Pulses:
    """The files of the workers that were started together.

    Args:
        folder: shared by all workers. A set of workers, known by its addresses, has a folder of
            its own in it, so that a set that is turned away does not disturb one at work.
        task: cluster.TaskSpec of this worker.
        period_s: seconds between two looks.
    """

    def __init__(self, folder, task, period_s=1.0):
        name = hashlib.sha256(" ".join(task.addresses).encode()).hexdigest()[:12]
        self._parent = folder
        self._folder = os.path.join(folder, name)
        self._rank, self._size = task.rank, task.size
        self._life = uuid.uuid4().hex[:12]
        self._count = 0
        self._longest_s = 2 * period_s
        self._all_are_here = False
        self._words, self._greeting = {}, {}
        self._lock = threading.Lock()  # the watchdog writes, and who waits for the others
        self._known = {}  # rank: (life and count, seconds unchanged, when looked, changed ever)
        os.makedirs(self._folder, exist_ok=True)

    def write(self, words: dict):
        """Replaces what this worker says; JSON-ready."""
        with self._lock:
            self._words = words
            self._write()

    def meets(self) -> bool:
        """Whether all workers are there and know it; goes one step towards that."""
        first = self._read(0) or {}
        if self._rank:
            self._greet({"hears": first.get("life")})
            return first.get("heard", {}).get(str(self._rank)) == self._life
        others = [self._read(rank) or {} for rank in range(1, self._size)]
        if any(words.get("hears") != self._life for words in others):
            return False
        self._greet({"heard": {rank: words["life"] for rank, words in enumerate(others, 1)}})
        return True

    def awaited(self) -> list[int]:
        """Ranks of the workers that do not hear the first one yet; others wait for that one."""
        if self._rank:
            return [0]
        ranks = range(1, self._size)
        return [rank for rank in ranks if (self._read(rank) or {}).get("hears") != self._life]

    def _greet(self, greeting):
        with self._lock:
            if greeting != self._greeting:
                self._greeting = greeting
                self._write()

    def _write(self):
        self._count += 1
        words = {**self._words, **self._greeting, "life": self._life, "count": self._count}
        path = self._path(self._rank)
        aside = f"{path}.{self._life}"
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(words | {"pid": os.getpid()}, file)
        os.replace(aside, path)

    def all_are_here(self):
        """All workers have met, so whatever lies there now is of their present life."""
        self._all_are_here = True

    def look(self, rank: int) -> Seen:
        """What worker `rank` says, and for how long it has said nothing new."""
        words = self._read(rank)
        mark = (words["life"], words["count"]) if words else None
        now = time.monotonic()
        before, silent_s, looked, alive = self._known.get(rank, (mark, 0.0, now, False))
        silent_s += min(now - looked, self._longest_s)
        if mark != before:
            silent_s, alive = 0.0, True
        self._known[rank] = (mark, silent_s, now, alive)
        return Seen(words if alive or self._all_are_here else None, silent_s)

    def remove_old(self):
        """Removes what sets of workers left that have said nothing for a week."""
        for name in os.listdir(self._parent):
            path = os.path.join(self._parent, name)
            if path != self._folder and time.time() - os.path.getmtime(path) > _KEEP_S:
                shutil.rmtree(path, ignore_errors=True)

    def _read(self, rank):
        try:
            with open(self._path(rank), encoding="utf-8") as file:
                words = json.load(file)
        except (OSError, ValueError):  # not there yet, or a file system between two versions
            return None
        return words if {"life", "count"} <= words.keys() else None

    def _path(self, rank):
        return os.path.join(self._folder, f"worker-{rank:05d}.json")
