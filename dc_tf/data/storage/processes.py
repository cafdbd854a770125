"""Maps functions over process pools: ordered results, bounded memory, no orphaned processes.

    for result in map_lists(draw_chunk, [[0, 1, 2], [3, 4]], workers=4):
        ...                                    # draw_chunk([0, 1, 2]) returns three results

The processes import the functions by name, so their modules should load quickly.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

from dc_tf.distributed import stop_request
from dc_tf.distributed.task import task_from_environment

_LISTS_AHEAD = 4  # per process; bounds the memory of pending results
_BYTES_AHEAD = 256 << 20
_WORTH_A_PROCESS = 1 << 30  # bytes of shards


def cores() -> int:
    """CPU cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def own_processes(asked, comm) -> int:
    """Processes of this worker: as many as asked for, or its share of the host's cores.

    Args:
        asked: int, or None.
        comm: Communicator of the workers that compute at the same time.
    """
    sharing = task_from_environment().local_size if comm.size > 1 else 1
    return asked or max(1, cores() // sharing)


def map_lists(
    function, lists, workers=None, initializer=None, crashed=None, weight=None
) -> Iterator:
    """Calls a function on each of many lists, in processes, and yields all results in order.

    Args:
        function: picklable; maps a list to a list of the same length.
        lists: iterable of lists, consumed lazily.
        workers: number of processes; None: one per core.
        initializer: function that each process calls first.
        crashed: function of an item whose process crashed to that item's result; the remaining
            items are processed. None: a crashed process is an error.
        weight: function of a list to its size in bytes; bounds the pending lists.

    Raises:
        Preempted: a process ended, and this one was asked to stop.
    """
    lists = iter(lists)
    again = collections.deque()  # lists that a broken pool did not finish
    while True:
        waiting = collections.deque()
        try:
            with _pool(workers or cores(), initializer) as pool:
                source = _chain(again, lists)
                yield from _in_pool(pool, function, source, waiting, workers or cores(), weight)
            return
        except concurrent.futures.process.BrokenProcessPool:
            stop_request.raise_if_requested()  # the same signal ended the pool's processes
            if crashed is None:
                raise
            # A process crashed or was killed. The first unfinished list is processed item by item
            # to find the one that crashes; if none does, it is in a later list.
            again = collections.deque([job for job, _ in waiting] + list(again))
            if again:
                yield from _one_by_one(function, again.popleft(), initializer, crashed)


def map_shards(function, shards, total_bytes, workers=None) -> Iterator:
    """Calls a function on each of many shards and yields the results in order.

    Args:
        function: picklable; from a list of shards to a list of results.
        shards: list.
        total_bytes: of all shards; below 1 GiB the work is done in this process, since processes
            take seconds to start.
        workers: number of processes; None: one per core.
    """
    if total_bytes < _WORTH_A_PROCESS or workers == 1:
        for shard in shards:
            yield from function([shard])
    else:
        yield from map_lists(function, ([shard] for shard in shards), workers)


def _chain(again, lists):
    while again:
        yield again.popleft()
    yield from lists


def _in_pool(pool, function, source, waiting, workers, weight):
    held = 0
    try:
        while True:
            while len(waiting) < workers * _LISTS_AHEAD and (held < _BYTES_AHEAD or not waiting):
                job = next(source, None)
                if job is None:
                    break
                waiting.append((job, None))  # in case the pool breaks while it is submitted
                waiting[-1] = job, _submit(pool, function, job)
                held += weight(job) if weight else 0
            if not waiting:
                return
            job, future = waiting[0]
            results = future.result()
            waiting.popleft()
            held -= weight(job) if weight else 0
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(function, items, initializer, crashed):
    todo = collections.deque(items)
    while todo:
        with _pool(1, initializer) as pool:
            try:
                while todo:
                    yield from _submit(pool, function, [todo[0]]).result()
                    todo.popleft()
            except concurrent.futures.process.BrokenProcessPool:
                stop_request.raise_if_requested()
                yield crashed(todo.popleft())


def _pool(workers, initializer):
    # Not forked: a fork of a process that runs TensorFlow's threads may deadlock.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(initializer,)
    )


def _submit(pool, function, job):
    """As `pool.submit`, which may start a process; that inherits the blocked signal.

    An interrupt that meets a process before `_start` would end it with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(initializer):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def end_with_parent():
        parent.join()  # A killed parent cannot shut down its pool.
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()
