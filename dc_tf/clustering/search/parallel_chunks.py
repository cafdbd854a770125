"""Chunks of rows worked on by a few threads, so that one reads while another computes.

TensorFlow's kernels and NumPy's loops release the interpreter; on a CPU, work of one thread fills
the cores that another leaves idle, and on a GPU the next chunk is read and sent meanwhile.

    for result in in_parallel(work_on_chunk, range(0, rows, chunk_rows)): ...
"""

import concurrent.futures
import os

import tensorflow as tf


def thread_count() -> int:
    """Threads that work on chunks: one more than TensorFlow uses in a kernel, but 2 to 4.

    With as many, a core waits whenever a lane looks for the largest score.
    """
    threads = (
        tf.config.threading.get_intra_op_parallelism_threads()
        or int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0))
        or len(os.sched_getaffinity(0))
    )
    return max(2, min(4, threads + 1))


def in_parallel(function, chunks):
    """Yields `function(chunk)` in the order of `chunks`; an error in one ends the others."""
    pool = concurrent.futures.ThreadPoolExecutor(thread_count(), "lane")
    try:
        yield from pool.map(function, chunks)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
