"""Processes chunks of rows in a few threads, so that reading and computing overlap.

TensorFlow's kernels and NumPy's loops release the interpreter lock. On a CPU, one thread uses the
cores that another leaves idle; on a GPU, the next chunk is read and copied during a product.

    for result in in_parallel(work_on_chunk, range(0, rows, chunk_rows)): ...
"""

import concurrent.futures
import os
from collections.abc import Iterator

import tensorflow as tf


def thread_count() -> int:
    """Number of threads: one more than TensorFlow uses in a kernel, within 2 to 4.

    With as many as kernel threads, a core would idle during every arg-max.
    """
    threads = (
        tf.config.threading.get_intra_op_parallelism_threads()
        or int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0))
        or len(os.sched_getaffinity(0))
    )
    return max(2, min(4, threads + 1))


def in_parallel(function, chunks) -> Iterator:
    """Yields `function(chunk)` in the order of `chunks`; an error cancels those not started."""
    pool = concurrent.futures.ThreadPoolExecutor(thread_count(), "chunk")
    try:
        yield from pool.map(function, chunks)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
