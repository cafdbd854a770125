"""Progress of long work: a bar on a terminal, occasional plain lines elsewhere.

    with Progress(total=4000, what="extract", unit="images") as progress:
        for batch in batches:
            progress.update(len(batch), loss=0.12)

Progress goes to stderr; stdout is reserved for results.
"""

import sys
import time

from dc_tf.distributed import heartbeat

# Formats of tqdm, with our own count, which has separators.
_BAR = (
    "{desc}: {percentage:3.0f}%|{bar}| {postfix[0]} [{elapsed}<{remaining}, {rate_fmt}{postfix[1]}]"
)
_COUNTER = "{desc}: {postfix[0]} [{elapsed}, {rate_fmt}{postfix[1]}]"


class Progress:
    """Counts `update` calls towards `total` and shows rate and time left.

    A log file gets one line at the start, one at the end, and at most one every
    `every_s` seconds between, so that a day's run stays readable.

    Attributes:
        done: int, units finished so far, or skipped.
    """

    def __init__(self, total, what, unit="rows", enabled=True, every_s=10.0, done=0):
        """Prepares; nothing is shown before `with`.

        Args:
            total: int, units to do, or None when not known.
            what: str, the work in a word or two.
            unit: str, plural name of what is counted.
            enabled: bool; False shows nothing (workers other than the chief).
            every_s: seconds, least time between two plain lines.
            done: int, units done before a restart; they do not count for the rate.
        """
        self.done = done
        self._skipped = done
        self._total = total
        self._what = what
        self._unit = unit
        self._enabled = enabled
        self._every_s = every_s
        self._metrics = {}
        self._resumes = bool(done)
        self._has_bar = False
        self._bar = None

    def __enter__(self):
        heartbeat.beat(self._what)
        self._started = self._working_since = self._last_line = time.monotonic()
        if self._resumes:
            self._write_resumed()
        self._has_bar = self._enabled and sys.stderr.isatty()
        if self._has_bar:
            from tqdm import tqdm  # needed on a terminal only

            self._bar = tqdm(
                total=self._total,
                initial=self.done,
                desc=self._what,
                unit=f" {self._unit}",
                dynamic_ncols=True,
                bar_format=_BAR if self._total else _COUNTER,
                postfix=[self._count(), ""],
            )
        elif self._enabled and not self._resumes:
            self._write(self._count())
        return self

    def __exit__(self, error_type, error, trace):
        if self._bar is not None:
            self._show_in_bar()
            self._bar.close()
        elif self._enabled:
            how = "done" if error_type is None else f"stopped by {error_type.__name__}"
            took = f"in {_duration(self._elapsed(self._started))}"
            self._write(", ".join([self._count(), f"{how} {took}", self._rate(), *self._named()]))

    def update(self, n=1, **metrics) -> None:
        """Adds `n` finished units; `metrics` (name=number or None) are shown beside the count.

        Calls with 0 before the first unit report preparation, which does not count for the rate.
        """
        heartbeat.beat(self._what)
        if self.done == self._skipped:
            if not n:
                self._working_since = time.monotonic()
            elif self._skipped and not self._resumes:
                self._resumes = True
                self._write_resumed()
        self.done += n
        self._metrics.update({k: v for k, v in metrics.items() if v is not None})
        if self._bar is not None:
            self._show_in_bar()
            self._bar.update(n)
        elif self._is_due():
            self._last_line = time.monotonic()
            self._write(", ".join([self._count(), self._rate(), *self._left(), *self._named()]))

    def skip(self, n) -> None:
        """Adds `n` units that need no work, e.g. done before a restart; not part of the rate."""
        self.done += n
        self._skipped += n
        if self._bar is not None:
            self._bar.initial += n
            self._bar.n += n
            self._show_in_bar()
            self._bar.refresh()

    def _is_due(self):
        is_last = self.done == self._total  # the final line reports it
        return self._enabled and not is_last and time.monotonic() - self._last_line >= self._every_s

    def _elapsed(self, since):
        return max(time.monotonic() - since, 1e-9)

    def _count(self):
        if self._total is None:
            return f"{self.done:,} {self._unit}"
        count = f"{self.done:,}/{self._total:,} {self._unit}"
        if not self._total or self._has_bar:  # a bar has its own percentage
            return count
        return f"{count} ({100 * self.done / self._total:.0f}%)"

    def _rate(self):
        worked = self.done - self._skipped
        return f"{_number(worked / self._elapsed(self._working_since))} {self._unit}/s"

    def _left(self):
        worked = self.done - self._skipped
        if not self._total or not worked:
            return []
        seconds = self._elapsed(self._working_since) * (self._total - self.done) / worked
        return [f"{_duration(max(seconds, 0))} left"]

    def _named(self):
        return [f"{name} {_number(value)}" for name, value in self._metrics.items()]

    def _show_in_bar(self):
        self._bar.postfix = [self._count(), "".join(f", {text}" for text in self._named())]

    def _write_resumed(self):
        if self._enabled:
            self._write(f"resumes at {self._count()}")

    def _write(self, text):
        line = f"{self._what}: {text}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


class IterationProgress(Progress):
    """Progress of k-means: shows the iteration instead of rows summed over iterations.

    Each iteration is a pass over the rows; the final assignment is one more.
    """

    def __init__(
        self,
        iterations,
        rows,
        what,
        own_rows=None,
        problems=1,
        enabled=True,
        iterations_done=0,
        every_s=10.0,
    ):
        """Prepares.

        Args:
            iterations: int, the maximum.
            rows: int, of all workers.
            what: as in `Progress`.
            own_rows: int, rows of this worker, which `update` and `skip` count; None: `rows`.
            problems: int, number of consecutive clusterings that share the rows.
            enabled, every_s: as in `Progress`.
            iterations_done: int, iterations done before a restart.
        """
        self._iterations = iterations
        self._rows = rows
        self._own_rows = rows if own_rows is None else own_rows
        self._problems = problems
        self._place = {"iteration": iterations_done, "cluster": 0}
        total, done = (iterations + 1) * self._own_rows, iterations_done * self._own_rows
        super().__init__(total, what, "rows", enabled, every_s, done)

    def update(self, n=1, iteration=None, cluster=None, **metrics) -> None:
        """As in `Progress`; `iteration` of the problem `cluster`, both counted from 0."""
        self._move(iteration, cluster)
        super().update(n, **metrics)

    def skip(self, n, iteration=None, cluster=None) -> None:
        self._move(iteration, cluster)
        super().skip(n)

    def _move(self, iteration, cluster):
        given = {"iteration": iteration, "cluster": cluster}
        self._place |= {name: value for name, value in given.items() if value is not None}

    def _count(self):
        count = f"iteration {self._place['iteration']}/{self._iterations}, {self._rows:,} rows"
        if self._problems == 1:
            return count
        return f"cluster {self._place['cluster'] + 1}/{self._problems}, {count}"

    def _rate(self):
        worked = (self.done - self._skipped) * self._rows / max(1, self._own_rows)
        return f"{_number(worked / self._elapsed(self._working_since))} rows/s"


def _number(value):
    if isinstance(value, str):
        return value
    value = float(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def _duration(seconds):
    """12.3 -> '12.3 s'; 75 -> '1:15'; 3675 -> '1:01:15'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
