"""A sweep from its file to its table: what is refused, the jobs, the result.

    result = run_sweep("methods_small", "S", data="DATA/train", test="DATA/test", at_once=2)

Started again on the same folder, it runs what is missing.
"""

import contextlib
import json
import os

from dc_tf import paths
from dc_tf.atomic import locked, make_folder, write_text
from dc_tf.data.storage import files
from dc_tf.data.storage.manifest import MANIFEST, Dataset
from dc_tf.distributed import stop_request
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError, DataError
from dc_tf.sweep import cells as cells_lib
from dc_tf.sweep import precisions as precisions_lib
from dc_tf.sweep import room as room_lib
from dc_tf.sweep.folder import SweepFolder
from dc_tf.sweep.jobs import make_jobs
from dc_tf.sweep.processes import make_slots
from dc_tf.sweep.results import collect
from dc_tf.sweep.schedule import run_jobs, say
from dc_tf.sweep.sweep_file import read_sweep
from dc_tf.sweep.tables import tables


class SweepResult(dict):
    """What a sweep has measured: JSON-able, by name.

    Attributes:
        table: the same as text to read.
    """

    def __init__(self, values, table):
        super().__init__(values)
        self.table = table


def run_sweep(
    config_file, workdir, data=None, train=None, test=None, at_once=1, workers=1, threads=None
) -> SweepResult:
    """Runs what a sweep lacks; returns its result.

    Args:
        config_file, data, train, test: as of `sweep_file.read_sweep`.
        workdir: folder of the sweep, created if missing.
        at_once: trainings and evaluations at a time; 0 for as many as there is room for.
        workers: processes of each.
        threads: of each worker; None for those of an earlier start, else its share of the cores.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: cells failed; its `result` has the others.
        Preempted: the process was asked to stop.
    """
    prepared = prepare(config_file, workdir, data, train, test, workers)
    sweep, folder = prepared.sweep, prepared.folder
    known = folder.known()
    threads = threads or known.get("threads")
    room = room_lib.chosen(at_once, prepared, workers, threads)
    slots = make_slots(room.at_once, workers, threads)
    if room.text:
        say(room.text)
    with contextlib.ExitStack() as stack:
        make_folder(folder.path)
        stack.enter_context(locked(folder.lock, folder.path))
        stack.enter_context(stop_request.signals_handled())
        chosen = precisions_lib.choose(prepared.runs, known.get("precisions"), slots[0])
        folder.record(prepared.runs, prepared.fingerprint, chosen, slots[0].threads)
        jobs = make_jobs(sweep, prepared.cells, folder, chosen, prepared.prints)
        failures = run_jobs(jobs, slots, folder)
        found = collect(sweep, prepared.cells, folder, failures)
        result = SweepResult(found, tables(found))
        _write(sweep, folder, result)
    if failures:
        raise DataError(_failed(failures), result)
    return result


class Prepared:
    """A sweep that was checked.

    Attributes:
        sweep: Sweep.
        folder: SweepFolder.
        cells, runs: lists of cells.Cell and cells.Run.
        rows: of the data set.
        prints: {path of a data set: its fingerprint}.
        fingerprint: of the data set.
    """

    def __init__(self, sweep, folder, workers):
        dataset = _opened(sweep.data, f"{sweep.path}, data")
        self.sweep, self.folder, self.rows = sweep, folder, dataset.rows
        self.fingerprint = dataset.fingerprint()
        self.prints = {sweep.data: self.fingerprint}
        for path in {sweep.train, sweep.test} - {"", sweep.data}:
            if files.exists(os.path.join(path, MANIFEST)):  # others are folders of images, or kits
                self.prints[path] = Dataset.open(path).fingerprint()
        self.cells = cells_lib.expand(sweep, dataset.rows, folder, workers)
        self.runs = cells_lib.runs_of(self.cells)


def prepare(config_file, workdir, data, train, test, workers) -> Prepared:
    """Reads a sweep and refuses what cannot work; writes nothing.

    Raises:
        ConfigError: of the file, of an experiment, or of what is in the folder.
    """
    if task_from_environment().size > 1:
        raise ConfigError("a sweep is one process; give --workers=N instead of TF_CONFIG.")
    folder = SweepFolder(workdir)
    paths.check_folder(folder.path, "--workdir")
    sweep = read_sweep(config_file, data, train, test)
    prepared = Prepared(sweep, folder, workers)
    folder.check_same(prepared.runs, prepared.fingerprint)
    # From here on with TensorFlow, which takes seconds to import.
    from dc_tf.sweep import checks

    checks.check_evaluations(sweep, prepared.cells)
    checks.check_runs(prepared.runs, sweep)
    return prepared


def _opened(path, place):
    try:
        return Dataset.open(path)
    except DataError as error:
        raise ConfigError(f"{place}: {error}") from error


def _write(sweep, folder, result):
    from dc_tf.sweep.plot import draw  # brings Matplotlib

    write_text(folder.result, json.dumps(result, indent=1) + "\n")
    write_text(folder.table, result.table)
    draw(sweep, result, folder.plot)


def _failed(failures):
    first, reason = next(iter(failures.items()))
    more = f"; {len(failures) - 1} others also failed" if len(failures) > 1 else ""
    return f"{first} {reason}{more}. The others are done; the same command runs what is missing."
