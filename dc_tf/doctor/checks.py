"""Runs all checks in order: this worker, then its peers, then TensorFlow between them.

    report = run_checks(Options(config_file=["a.yaml"], workdir="/runs/mine", timeout_s=60))
    report.failed

Checks that could hang run last, and only if their preconditions passed.
"""

import contextlib
import dataclasses
import os
import threading
import uuid

from dc_tf import atomic, paths
from dc_tf import experiment as experiment_lib
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.ports import check_own_port
from dc_tf.distributed.rendezvous import PortTaken, Rendezvous, RendezvousFailed
from dc_tf.doctor import comparison, data, estimate, machine, network
from dc_tf.doctor.beginning import begin
from dc_tf.doctor.report import Report
from dc_tf.errors import ConfigError, DataError
from dc_tf.planning.plan import Rates, make_plan
from dc_tf.planning.report import as_dict
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.rates import rates_of
from dc_tf.training.preflight import check_start

_SEEN_S = 10.0  # until another worker's file must be visible; network file systems cache lists


@dataclasses.dataclass(frozen=True)
class Options:
    """What to check.

    Attributes:
        config_file, params_override: of the experiment; without them, the configuration in the run
            folder, if there is one.
        workdir: run folder, or None.
        timeout_s: how long to wait for other workers.
        sample: images that each worker reads and decodes.
        verify: whether to read and check all shards.
    """

    config_file: tuple[str, ...] = ()
    params_override: tuple[str, ...] = ()
    workdir: str | None = None
    timeout_s: float = 60.0
    sample: int = 200
    verify: bool = False


def run_checks(options: Options, begun=None) -> Report:
    """Runs all checks that are possible; returns their results.

    Args:
        options: Options.
        begun: result of `beginning.begin`, if it was called already.
    """
    report, task, trouble = begun or begin()
    gpus = machine.check_devices(report, task)
    if trouble:
        report.fail("cluster", str(trouble), "correct TF_CONFIG on this worker")
    else:
        _explain(report, task)
    checks = _Checks(options, report, task, gpus)
    with contextlib.ExitStack() as stack:
        if task.size == 1:
            checks.alone(stack)
        else:
            checks.with_others(stack)
    return report


class _Checks:
    """The checks of one worker that depend on the options."""

    def __init__(self, options, report, task, gpus):
        self._options = options
        self._report = report
        self._task = task
        self._gpus = gpus
        self._experiment = self._load()
        self._run = RunDir(options.workdir) if options.workdir else None
        self._dataset = self._plan = None
        self._made = self._run is not None and not os.path.exists(self._run.path)

    def alone(self, stack):
        """Runs the checks of a worker without peers."""
        marker = self._leave_marker(stack)
        self._check_markers({0: marker})
        self.look_at_own()
        machine.check_precision(self._report, self._experiment)
        self.show_estimate(None)
        self._report.ok("other workers", "none: this worker is alone")

    def with_others(self, stack):
        """After a rendezvous compares facts with the peers, checks this worker, sums over all."""
        try:
            check_own_port(self._task)
            rendezvous = stack.enter_context(
                Rendezvous(self._task.addresses, self._task.rank, self._options.timeout_s)
            )
        except (ConfigError, PortTaken) as error:
            self._report.fail("port", str(error), "free the port, or change it in TF_CONFIG")
            return
        marker = self._leave_marker(stack)
        try:
            own = comparison.facts_of(self._task, self._gpus, self._experiment)
            facts = rendezvous.exchange({**own, "marker": marker, "made": self._made})
            self._made = any(found["made"] for found in facts.values())
            comparison.compare(self._report, facts)
            self._check_markers({rank: found["marker"] for rank, found in facts.items()})
            self.look_at_own()
            results = rendezvous.exchange(self._results())
        except RendezvousFailed as error:
            self._name_missing(error)
            if self._dataset is None:
                self.look_at_own()
            self.show_estimate(None)
            return
        rendezvous.close()
        stack.pop_all().close()  # all workers have seen the markers
        self._add_failures_of_others(results)
        if self._dataset is not None:
            found = {rank: result["data"] for rank, result in results.items()}
            comparison.same(self._report, "data set", found, "give all workers the same data set")
        able = all(result["joins"] for result in results.values())
        if able and len({found["gpus"] > 0 for found in facts.values()}) == 1:
            self.show_estimate(self._sum_with_others())
            return
        self._report.warn(
            "all-reduce",
            "was skipped: TensorFlow would wait for a worker that lacks a GPU",
            "see above",
            shared=True,
        )
        self.show_estimate(None)

    def _results(self):
        """The results of this worker's own checks, for its peers."""
        own = self._report.own_failed
        return {
            "failed": [str(check) for check in own],
            "joins": all(check.what != "gpu" for check in own),
            "data": self._dataset and self._dataset.fingerprint(),
        }

    def look_at_own(self):
        """Checks data set, plan, memory and disks of this worker."""
        options, task, report = self._options, self._task, self._report
        if self._experiment is None:
            return
        self._dataset = data.open_data(report, self._experiment.data.path)
        if self._dataset is None:
            return
        data.check_images(report, self._dataset, task.rank, task.size, options.sample)
        if options.verify:
            data.check_shards(report, self._dataset, task.rank, task.size)
        try:
            check_start(self._experiment, self._dataset.rows, task.size)
            self._plan = make_plan(
                self._experiment, self._dataset.rows, task.size, on_gpu=bool(self._gpus)
            )
        except (ConfigError, DataError) as error:
            report.fail("experiment", str(error), "change that setting", shared=True)
            return
        neighbours = task.local_size
        machine.check_memory(report, self._plan, neighbours)
        if self._run is not None:
            scratch = self._run.features(task.rank)
            machine.check_disks(report, self._plan, scratch, self._run.path, neighbours)

    def show_estimate(self, rate):
        """Reports the cost of the experiment, with times where rates were measured."""
        if self._plan is None:
            return
        rates = rates_of(self._run) if self._run else Rates()
        self._report.estimate = as_dict(self._plan, rates)
        for text in estimate.lines(self._plan, rate, rates):
            self._report.ok("estimate", text, shared=True)

    def _load(self):
        options = self._options
        files = list(options.config_file)
        if not files and not options.params_override and options.workdir:
            own = RunDir(options.workdir).config
            files = [own] if os.path.exists(own) else []
        if not files and not options.params_override:
            self._report.warn(
                "experiment",
                "none was given: data, disks and memory are not checked",
                "add --config_file, --params_override or the --workdir of a run",
                shared=True,
            )
            return None
        try:
            experiment = experiment_lib.load(files, options.params_override)
        except ConfigError as error:
            self._report.fail("experiment", str(error), "correct the setting")
            return None
        self._report.ok(
            "experiment", f"{len(experiment.stages)} stages: {_names(experiment)}", shared=True
        )
        return experiment

    def _leave_marker(self, stack):
        """Writes a file of this worker into the run folder, which is removed with the stack."""
        if self._run is None:
            return None
        name = f".doctor-{self._task.rank}-{uuid.uuid4().hex}"
        path = os.path.join(self._run.path, name)
        try:
            paths.check_folder(self._run.path, "--workdir")
            self._run.create()
            atomic.write_text(path, name)
        except (ConfigError, OSError) as error:
            text = str(error) if isinstance(error, ConfigError) else f"cannot be written: {error}"
            self._report.fail("run folder", text, "let all workers write to --workdir")
            return None
        stack.callback(self._remove_marker, path)
        return name

    def _remove_marker(self, path):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        if self._made:  # the last worker to leave finds it empty
            with contextlib.suppress(OSError):
                os.rmdir(self._run.path)

    def _check_markers(self, markers):
        if self._run is None:
            return
        expected = {rank: name for rank, name in markers.items() if name}
        if not expected:
            return  # no worker could write, which was reported
        unseen = _unseen(self._run.path, expected)
        if unseen:
            self._report.fail(
                "run folder",
                f"{self._run.path} on worker {self._task.rank} does not show the file that "
                f"worker {unseen[0]} wrote there",
                "use a --workdir on a file system that all workers share",
            )
        else:
            everywhere = " and one folder on all workers" if self._task.size > 1 else ""
            self._report.ok(
                "run folder", f"{self._run.path} can be written{everywhere}", shared=True
            )

    def _name_missing(self, error):
        addresses = self._task.addresses
        for rank, why in sorted(error.silent.items()):
            self._report.fail(
                f"peer worker {rank}",
                f"{addresses[rank]} is silent after {self._options.timeout_s:g} s: {why}",
                "start the doctor there too, check its address in TF_CONFIG, or open the port",
            )
        for rank, missing in sorted(error.apart.items()):
            others = ", ".join(f"{other} ({addresses[other]})" for other in missing)
            self._report.fail(
                f"peer worker {rank}",
                f"{addresses[rank]} answers, but does not reach worker {others or 'all in time'}",
                "start the missing workers, or open the port between the two",
            )

    def _add_failures_of_others(self, results):
        """Adds failures of other workers to the chief's result."""
        for rank, found in sorted(results.items()):
            if found["failed"] and rank != self._task.rank and self._task.rank == 0:
                self._report.fail(
                    f"worker {rank}",
                    f"{len(found['failed'])} of its checks failed; {found['failed'][0]}",
                    "see its own lines",
                )

    def _sum_with_others(self):
        """Joins the workers in TensorFlow and sums over them, within the time limit."""
        kinds = network.groups_of(self._plan) if self._plan else []
        with network.deadline(self._report, self._options.timeout_s):
            try:
                cluster = connect()
                machine.check_precision(self._report, self._experiment, cluster.world)
                rate = network.check_sums(self._report, cluster, kinds)
                cluster.leave()
            except Exception as error:  # TensorFlow raises many kinds where a peer is lost
                self._report.fail(
                    "all-reduce",
                    f"TensorFlow cannot join the workers: {error}",
                    "see the lines of the other workers; each GPU serves one worker",
                )
                return None
        return rate


def _explain(report, task):
    if task.size == 1:
        report.ok("cluster", "TF_CONFIG names no other workers")
        return
    others = [f"{rank}: {address}" for rank, address in enumerate(task.addresses)]
    del others[task.rank]
    shown = others if len(others) <= 8 else [*others[:7], f"... {others[-1]}"]
    report.ok(
        "cluster",
        f"this is worker {task.rank} of {task.size}, {'the chief, ' if not task.rank else ''}"
        f"{task.addresses[task.rank]}; the others: {', '.join(shown)}",
    )


def _names(experiment):
    return ", ".join(stage.name for stage in experiment.stages)


def _unseen(folder, markers):
    """Ranks whose files do not appear within the time."""
    waiting, event = sorted(markers), threading.Event()
    for _ in range(int(_SEEN_S / 0.5)):
        waiting = [r for r in waiting if not os.path.exists(os.path.join(folder, markers[r]))]
        if not waiting:
            break
        event.wait(0.5)
    return waiting
