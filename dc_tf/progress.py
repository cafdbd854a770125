"""How far long work has come: a bar on a terminal, a plain line now and then elsewhere.

    with Progress(total=4000, what="extract", unit="images") as progress:
        for batch in batches:
            progress.update(len(batch), loss=0.12)

Everything goes to stderr; stdout is kept for results.
"""

import sys
import time

from dc_tf import pulse


class Progress:
    """Counts `update` calls towards `total` and shows rate and time left.

    A log file gets one line at the start, one at the end, and at most one every
    `every_s` seconds between, so that a day's run stays readable.

    Attributes:
        done: int, units finished so far, or skipped.
    """

    def __init__(self, total, what, unit="rows", enabled=True, every_s=10.0):
        """Prepares; nothing is shown before `with`.

        Args:
            total: int, units to do, or None when not known.
            what: str, the work in a word or two.
            unit: str, plural name of what is counted.
            enabled: bool; False shows nothing (workers other than the chief).
            every_s: seconds, least time between two plain lines.
        """
        self.done = 0
        self._skipped = 0
        self._total = total
        self._what = what
        self._unit = unit
        self._enabled = enabled
        self._every_s = every_s
        self._figures = {}
        self._bar = None

    def __enter__(self):
        pulse.beat(self._what)
        self._started = self._working_since = self._last_line = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            from tqdm import tqdm  # Not needed where there is no terminal.

            self._bar = tqdm(
                total=self._total, desc=self._what, unit=f" {self._unit}", dynamic_ncols=True
            )
        elif self._enabled:
            self._write(self._count())
        return self

    def __exit__(self, error_type, error, trace):
        if self._bar is not None:
            self._bar.close()
        elif self._enabled:
            how = "done" if error_type is None else f"stopped by {error_type.__name__}"
            took = f"in {_duration(self._elapsed(self._started))}"
            self._write(", ".join([self._count(), f"{how} {took}", self._rate(), *self._named()]))

    def update(self, n=1, **figures):
        """Adds `n` finished units; `figures` (name=number or None) stand beside the count.

        Calls with 0 before anything is finished tell of preparations, no part of the rate.
        """
        pulse.beat(self._what)
        if not n and self.done == self._skipped:
            self._working_since = time.monotonic()
        self.done += n
        self._figures.update({k: v for k, v in figures.items() if v is not None})
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._named()), refresh=False)
            self._bar.update(n)
        elif self._enabled and time.monotonic() - self._last_line >= self._every_s:
            self._last_line = time.monotonic()
            self._write(", ".join([self._count(), self._rate(), *self._left(), *self._named()]))

    def skip(self, n):
        """Adds `n` units that need no work, e.g. done before a restart; they are no speed."""
        self.done += n
        self._skipped += n
        if self._bar is not None:
            self._bar.initial += n
            self._bar.n += n
            self._bar.refresh()

    def _elapsed(self, since):
        return max(time.monotonic() - since, 1e-9)

    def _count(self):
        if self._total is None:
            return f"{self.done} {self._unit}"
        percent = f" ({100 * self.done / self._total:.0f}%)" if self._total else ""
        return f"{self.done}/{self._total} {self._unit}{percent}"

    def _rate(self):
        worked = self.done - self._skipped
        return f"{worked / self._elapsed(self._working_since):.4g} {self._unit}/s"

    def _left(self):
        worked = self.done - self._skipped
        if not self._total or not worked:
            return []
        seconds = self._elapsed(self._working_since) * (self._total - self.done) / worked
        return [f"{_duration(max(seconds, 0))} left"]

    def _named(self):
        return [f"{name} {_figure(value)}" for name, value in self._figures.items()]

    def _write(self, text):
        print(f"{self._what}: {text}", file=sys.stderr, flush=True)


def _figure(value):
    return value if isinstance(value, str) else f"{float(value):.4g}"


def _duration(seconds):
    """12.3 -> '12.3 s'; 75 -> '1:15'; 3675 -> '1:01:15'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
