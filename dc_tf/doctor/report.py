"""Results of the checks: a line each, `ok|warn|FAIL  what  detail`, and one JSON object.

report = Report(rank=0)
report.ok("gpus", "8 on each worker")
report.fail("peer worker 1", "host1:2222 is silent", "start it, or open the port")
"""

import dataclasses

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        status: "ok", "warn" or "FAIL".
        what: the subject of the check, in a few words.
        detail: the finding.
        remedy: what to do; failed checks have one.
    """

    status: str
    what: str
    detail: str
    remedy: str = ""

    def __str__(self):
        text = f"{self.detail} -> {self.remedy}" if self.remedy else self.detail
        return f"{self.status:<4}  {self.what:<18}  {' '.join(text.split())}"


class Report:
    """The findings of one worker, printed as they are added.

    A shared check has the same result on all workers, so only the chief prints it. Other workers
    print those of their own checks that are not ok.

    Attributes:
        checks: list of Check.
        own_failed: those of them that failed and are not shared.
        estimate: cost of the experiment, as of `planning.report.as_dict`; None if not known.
    """

    def __init__(self, rank: int = 0):
        self.checks = []
        self.own_failed = []
        self.estimate = None
        self._rank = rank

    def ok(self, what, detail, shared=False) -> None:
        self.add(Check(OK, what, detail), shared)

    def warn(self, what, detail, remedy, shared=False) -> None:
        self.add(Check(WARN, what, detail, remedy), shared)

    def fail(self, what, detail, remedy, shared=False) -> None:
        self.add(Check(FAIL, what, detail, remedy), shared)

    def add(self, check: Check, shared: bool = False) -> None:
        self.checks.append(check)
        if check.status == FAIL and not shared:
            self.own_failed.append(check)
        if self._rank == 0 or (not shared and check.status != OK):
            print(check, flush=True)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == FAIL]

    def as_dict(self) -> dict:
        """JSON-ready: all checks of the chief, or those of another worker that are not ok."""
        shown = [c for c in self.checks if self._rank == 0 or c.status != OK]
        return {
            "ok": not self.failed,
            "failed": len(self.failed),
            "warnings": sum(check.status == WARN for check in self.checks),
            "worker": self._rank,
            "checks": [dataclasses.asdict(check) for check in shown],
            "estimate": self.estimate if self._rank == 0 else None,
        }
