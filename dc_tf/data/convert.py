"""A folder of images to a data set: in parallel, in a fixed order, and whatever the files are.

    convert("photos", "/data/photos", labels_from_folders=True)

Every file of the folder becomes a row or a line of `rejected.jsonl` ({"path", "reason"}). Rows are
in the order of their relative paths, whatever the number of processes.
"""

import collections
import concurrent.futures
import json
import multiprocessing
import os

import tensorflow as tf

from dc_tf.data import image_files
from dc_tf.data.manifest import DatasetWriter, check_output, is_local
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

REJECTED = "rejected.jsonl"
FORMATS = ("keep", "jpeg", "png")
_CHUNK = 16  # files sent to a process at a time
_CHUNKS_AHEAD = 4  # for each process; bounds what waits in memory to be written


def convert(
    input,
    output,
    labels_from_folders=False,
    max_short_side=None,
    format="keep",
    quality=92,
    max_pixels=100_000_000,
    rows_per_shard=None,
    workers=None,
    overwrite=False,
    progress=True,
):
    """Converts all images below a folder.

    Args:
        input: folder, searched with all its sub-folders.
        output: folder of the data set.
        labels_from_folders: whether the first-level sub-folder is the class. Files beside the
            sub-folders have no label.
        max_short_side: pixels; images with a longer short side are made smaller. None: no bound.
        format: "jpeg", "png", or "keep": PNG stays PNG and everything else becomes JPEG.
        quality: of the JPEGs that are written. Clean RGB JPEGs are passed through unchanged.
        max_pixels: images whose header announces more are rejected without decoding.
        rows_per_shard: see DatasetWriter.
        workers: processes; None: one for each core.
        overwrite: whether to replace a data set in `output`.
        progress: whether to show progress.

    Returns:
        dict: output, rows, rejected, classes (None without), rejected_list (path).

    Raises:
        ConfigError: a setting that cannot work, a missing input, or an output that is in use.
        DataError: not one usable image.
    """
    rules = _rules(format, max_short_side, max_pixels, quality)
    input, output = os.fspath(input), os.fspath(output)
    _check_folders(input, output, overwrite)
    paths, rejected = list_files(input, skip=output)
    class_names = _class_names(input, paths) if labels_from_folders else None
    labels = {name: number for number, name in enumerate(class_names or ())}
    writer = DatasetWriter(output, class_names, rows_per_shard, overwrite)
    with Progress(len(paths), "convert", "images", enabled=progress) as bar, writer:
        for path, (encoded, reason) in zip(
            paths, _clean_all(input, paths, rules, workers), strict=True
        ):
            if reason is None:
                writer.write(encoded, labels.get(_folder(path)), source=path)
            else:
                rejected.append((path, reason))
            bar.update(1, rejected=len(rejected))
        _write_rejected(output, rejected)
        if not writer.rows:
            raise DataError(_nothing_usable(input, rejected))
    return {
        "output": output,
        "rows": writer.rows,
        "rejected": len(rejected),
        "classes": len(class_names) if class_names else None,
        "rejected_list": os.path.join(output, REJECTED),
    }


def list_files(folder, skip=None):
    """Lists the files below a folder.

    Args:
        folder: str.
        skip: str, a folder that is left out: the output, when it lies inside the input.

    Returns:
        sorted list of relative paths to try, and a list of (relative path, reason) not to try.
    """
    paths, rejected, seen = [], [], set()
    walk = _walk_local(folder, rejected, seen) if is_local(folder) else tf.io.gfile.walk(folder)
    for parent, folders, names in walk:
        if skip is not None and _same(parent, skip):
            folders[:] = []
            continue
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder)
            reason = _reason_to_skip(path)
            if reason:
                rejected.append((path, reason))
            else:
                paths.append(path)
    return sorted(paths), sorted(rejected)


def _walk_local(folder, rejected, seen):
    """`os.walk` that follows links once and lists what it cannot enter."""

    def cannot_enter(error):
        path = os.path.relpath(error.filename, folder)
        rejected.append((path, f"folder cannot be read: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=cannot_enter, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder that was visited, or to one above itself
            folders[:] = []
            continue
        seen.add(real)
        folders.sort()
        yield parent, folders, names


def _reason_to_skip(path):
    parts = path.split(os.sep)
    if "__MACOSX" in parts:
        return "macOS archive leftovers"
    if any(part.startswith(".") for part in parts):
        return "hidden file"
    return None


def _clean_all(folder, paths, rules, workers):
    """Yields (encoded, reason) for each path, in order."""
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    jobs = [[os.path.join(folder, path) for path in chunk] for chunk in chunks]
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(jobs)))
    while jobs:
        done = 0
        try:
            for results in _in_pool(jobs, rules, workers):
                yield from results
                done += 1
            return
        except concurrent.futures.process.BrokenProcessPool:
            # A decoder crashed or was killed. The chunk whose turn it is goes file by file through
            # one process, to find out which file does it; if none does, it is in a later chunk.
            yield from _one_by_one(jobs[done], rules)
            jobs = jobs[done + 1 :]


def _in_pool(jobs, rules, workers):
    waiting, todo = collections.deque(), iter(jobs)
    with _pool(workers) as pool:
        try:
            while True:
                while len(waiting) < workers * _CHUNKS_AHEAD:
                    job = next(todo, None)
                    if job is None:
                        break
                    waiting.append(pool.submit(image_files.clean_all, job, rules))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(workers):
    # Not forked: a fork of a process that runs TensorFlow's threads may never wake up.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=image_files.silence
    )


def _one_by_one(paths, rules):
    """Yields (encoded, reason) for each path; a file that ends its process gets a reason too."""
    todo = collections.deque(paths)
    while todo:
        with _pool(1) as pool:
            try:
                while todo:
                    job = pool.submit(image_files.clean_all, [todo.popleft()], rules)
                    yield from job.result()
            except concurrent.futures.process.BrokenProcessPool:
                yield None, "its decoder crashed or ran out of memory"


def _class_names(input, paths):
    names = sorted({_folder(path) for path in paths} - {None})
    if not names:
        raise ConfigError(
            f"labels_from_folders is set, but {input} has no sub-folders with files; leave it out, "
            f"or put the images of each class into a folder of its own."
        )
    return names


def _folder(path):
    first, separator, _ = path.partition(os.sep)
    return first if separator else None


def _write_rejected(output, rejected):
    lines = [json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in rejected]
    with tf.io.gfile.GFile(os.path.join(output, REJECTED), "w") as file:
        file.write("".join(sorted(lines)))  # one write: without any there would be no file


def _nothing_usable(input, rejected):
    if not rejected:
        return f"The folder {input} holds no files; give a folder of images."
    path, reason = rejected[0]
    return (
        f"None of the {len(rejected)} files in {input} is a usable image; the first, {path}: "
        f"{reason}."
    )


def _rules(format, max_short_side, max_pixels, quality):
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; use one of {', '.join(FORMATS)}.")
    if max_short_side is not None and max_short_side < 1:
        raise ConfigError(f"short_side is {max_short_side}; it must be at least 1 pixel.")
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}; it must be at least 1.")
    if not 1 <= quality <= 95:
        raise ConfigError(f"quality is {quality}; JPEG quality is 1 to 95.")
    return image_files.Rules(format, max_short_side, max_pixels, quality)


def _check_folders(input, output, overwrite):
    if not tf.io.gfile.isdir(input):
        raise ConfigError(f"The input {input} is not a folder; give a folder of images.")
    if _same(input, output):
        raise ConfigError(f"Input and output are both {input}; give another output.")
    check_output(output, overwrite)


def _same(a, b):
    if is_local(a) and is_local(b):
        return os.path.realpath(a) == os.path.realpath(b)
    return a.rstrip("/") == b.rstrip("/")
