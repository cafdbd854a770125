"""Work spread over processes: results in order, memory bounded, and no process left behind.

    for result in map_lists(draw_chunk, [[0, 1, 2], [3, 4]], workers=4):
        ...                                    # draw_chunk([0, 1, 2]) gives three, and so on

The functions are imported by name in the processes, so their modules should load quickly.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading

from dc_tf.distributed import stop_request

_LISTS_AHEAD = 4  # for each process; bounds what waits in memory
_BYTES_AHEAD = 256 << 20
_WORTH_A_PROCESS = 1 << 30  # bytes of shards


def cores():
    """CPU cores that this process may use."""
    can_tell = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1


def map_lists(function, lists, workers=None, initializer=None, crashed=None, weight=None):
    """Calls a function on each of many lists, in processes, and yields all results in order.

    Args:
        function: picklable; from a list to a list of as many results.
        lists: iterable of lists; taken as they are needed.
        workers: processes; None: one for each core.
        initializer: function that each process calls first.
        crashed: function of an item to the result of an item whose process died of it; the others
            go on. None: a process that dies is an error.
        weight: function of a list to the bytes it holds; bounds what waits.

    Raises:
        Preempted: a process ended, and this one was asked to stop.
    """
    lists = iter(lists)
    again = collections.deque()  # what a broken pool left undone
    while True:
        waiting = collections.deque()
        try:
            with _pool(workers or cores(), initializer) as pool:
                source = _chain(again, lists)
                yield from _in_pool(pool, function, source, waiting, workers or cores(), weight)
            return
        except concurrent.futures.process.BrokenProcessPool:
            stop_request.raise_if_requested()  # so were its processes, and they have done it
            if crashed is None:
                raise
            # A process crashed or was killed. The list whose turn it is goes item by item, to find
            # out which does it; if none does, it is in a later list.
            again = collections.deque([job for job, _ in waiting] + list(again))
            if again:
                yield from _one_by_one(function, again.popleft(), initializer, crashed)


def map_shards(function, shards, total_bytes, workers=None):
    """Calls a function on each of many shards and yields the results in order.

    Args:
        function: picklable; from a list of shards to a list of results.
        shards: list.
        total_bytes: of all shards; little work is done here, as processes take seconds to start.
        workers: processes; None: one for each core.
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
                waiting[-1] = job, pool.submit(function, job)
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
                    yield from pool.submit(function, [todo[0]]).result()
                    todo.popleft()
            except concurrent.futures.process.BrokenProcessPool:
                stop_request.raise_if_requested()
                yield crashed(todo.popleft())


def _pool(workers, initializer):
    # Not forked: a fork of a process that runs TensorFlow's threads may never wake up.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(initializer,)
    )


def _start(initializer):
    parent = multiprocessing.parent_process()

    def end_with_parent():
        parent.join()  # Killed, it cannot tell its pool to end.
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to decide upon
    if initializer is not None:
        initializer()
