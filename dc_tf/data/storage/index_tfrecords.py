"""Indexes existing TFRecord files as a data set without rewriting them.

    index_tfrecords("/data/imagenet/train-*", features=Features(label_offset=-1))
    index_tfrecords("gs://bucket/coco/*", "/data/coco", features=Features(image="img"))

Only indexes and a manifest are written. The records may use any feature names. Each record is read
once; its checksums, image header and label are checked, and bad records are left out and listed in
`rejected.jsonl`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re

from absl import logging

from dc_tf.data.storage import files, schema, tfrecord
from dc_tf.data.storage.files import expand, is_local, size_of
from dc_tf.data.storage.manifest import (
    INDEX_SUFFIX,
    INDEXED_IN_PLACE,
    MANIFEST,
    SCHEMA_VERSION,
    Dataset,
    Shard,
    encode_index,
)
from dc_tf.data.storage.processes import map_shards
from dc_tf.data.storage.scan import scan_shards
from dc_tf.data.storage.staging import Staging
from dc_tf.data.storage.writer import is_finished
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

REJECTED = "rejected.jsonl"


def index_tfrecords(
    input,
    output=None,
    features=schema.OURS,
    class_names=None,
    max_bad_share=0.0,
    workers=None,
    overwrite=False,
    progress=True,
) -> dict:
    """Indexes TFRecord files in place; an interrupted call resumes.

    Args:
        input: folder, path or pattern of the files; rows are in file-name order.
        output: folder for indexes and manifest; None: the folder of the files.
        features: schema.Features.
        class_names: list of str, one for each label, or None.
        max_bad_share: largest fraction of bad records accepted, in [0, 1].
        workers: number of processes; None: one per core.
        overwrite: whether to replace a data set in `output`; TFRecord files that were indexed in
            place are never removed.
        progress: whether to show progress.

    Returns:
        dict: output, rows, shards, rejected, labels ([least, largest], None without).

    Raises:
        ConfigError: no file matches, or the records lack a feature.
        DataError: there are more bad records than allowed; names file and offset of one.
        Preempted: the process was asked to stop.
    """
    paths = shard_paths(input)
    output = os.fspath(output) if output is not None else _folder_of(paths)
    _check_names(paths)
    _check_first_record(paths[0], features)
    sizes = [size_of(path) for path in paths]
    names = [_name_from(output, path) for path in paths]
    listed = hashlib.sha256(json.dumps([names, sizes]).encode()).hexdigest()
    job = {
        "made_by": "dc_tf index",
        "source": {"shards": len(paths), "list": listed},
        "features": dataclasses.asdict(features),
    }
    if overwrite or not (is_finished(output, job) and _class_names(output) == class_names):
        with Staging(output, job, overwrite, alone=False) as staging:
            _scan_all(staging, paths, names, sizes, features, max_bad_share, workers, progress)
            _commit(staging, names, features, class_names, max_bad_share, job)
    return _result(output)


def shard_paths(input) -> list[str]:
    """The TFRecord files that a folder, path or pattern names, sorted.

    Raises:
        ConfigError: there are none.
    """
    input = os.fspath(input)
    if files.is_folder(input):
        names = [name for name in files.names_in(input) if not name.endswith(INDEX_SUFFIX)]
        paths = sorted(os.path.join(input, name) for name in names if "tfrecord" in name)
    else:
        paths = expand(input)
    paths = [path for path in paths if not path.endswith(INDEX_SUFFIX)]
    if not paths or not all(files.exists(path) for path in paths):
        raise ConfigError(
            f"no TFRecord files match {input}; give a pattern, such as '/data/train-*', or a "
            f"folder of files with `tfrecord` in their names."
        )
    _warn_of_gaps(paths)
    return paths


def _scan_all(staging, paths, names, sizes, features, max_bad_share, workers, progress):
    """Scans the shards not yet scanned; writes the index and note of each to `staging`."""
    done, rows, rejected = sum(1 for _ in staging.notes()), 0, 0
    scan = functools.partial(scan_shards, features=features)
    scanned = map_shards(scan, paths[done:], sum(sizes[done:]), workers)
    with Progress(len(paths), "index", "files", enabled=progress) as bar:
        bar.skip(done)
        for number, (index, digest, bad) in enumerate(scanned, start=done):
            if bad and not max_bad_share:
                raise DataError(_bad_record(paths[number], *bad[0], "leaves bad ones out"))
            labels = [label for _, _, label in index if label != schema.NO_LABEL]
            staging.write_bytes(f"{number}{INDEX_SUFFIX}", encode_index(index))
            staging.add_note(
                {
                    "shard": dataclasses.asdict(
                        Shard(names[number], len(index), sizes[number], digest)
                    ),
                    "bad": bad,
                    "labels": [min(labels), max(labels)] if labels else None,
                }
            )
            rows, rejected = rows + len(index), rejected + len(bad)
            bar.update(1, rows=rows, rejected=rejected)
            stop_request.raise_if_requested("the files that were read are known")


def _commit(staging, names, features, class_names, max_bad_share, job):
    notes = list(staging.notes())
    shards = [note["shard"] for note in notes]
    rows = sum(shard["rows"] for shard in shards)
    bad = [
        (shard["name"], *fault)
        for shard, n in zip(shards, notes, strict=True)
        for fault in n["bad"]
    ]
    labels = [label for note in notes for label in note["labels"] or ()]
    if len(bad) > max_bad_share * (rows + len(bad)) or not rows:
        what = f"allows fewer than the {len(bad)} bad ones of {rows + len(bad)}"
        raise DataError(_bad_record(*bad[0], what) if bad else "the files hold no records.")
    _check_labels(labels, class_names, features)
    staging.write(
        REJECTED,
        (json.dumps({"path": f"{name}@{at}", "reason": why}) + "\n" for name, at, why in bad),
    )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "class_names": class_names,
        "shards": shards,
        "features": dataclasses.asdict(features),
        INDEXED_IN_PLACE: True,
        "origin": job,
    }
    moves = {
        f"{number}{INDEX_SUFFIX}": os.path.basename(name) + INDEX_SUFFIX
        for number, name in enumerate(names)
    }
    staging.commit({**moves, REJECTED: REJECTED}, manifest)


def _check_first_record(path, features):
    """Reports a wrong feature name before the scan, which would reject every record."""
    record = next((record for _, record, _ in tfrecord.scan(path) if record is not None), None)
    if record is None:
        raise DataError(f"{path} holds no valid record.")
    try:
        there = schema.feature_names(record)
        schema.image_and_label(record, features)
    except ValueError as error:
        raise ConfigError(
            f"the first record of {path} {error}; name its features with --image_feature and "
            f"--label_feature (empty: none), and see --label_offset."
        ) from error
    if features.label and features.label not in there:
        logging.warning(
            "the first record of %s has no %s; such rows get no label; its features are %s.",
            path,
            features.label,
            ", ".join(there),
        )


def _check_labels(labels, class_names, features):
    if class_names is not None and labels and max(labels) >= len(class_names):
        raise ConfigError(
            f"the records have label {max(labels)}, but only {len(class_names)} class names are "
            f"given; check --label_offset and --class_names."
        )
    if labels and min(labels) > 0 and not features.label_offset:
        logging.warning(
            "the smallest label is %d; if classes are numbered from 1, as in the usual ImageNet "
            "TFRecords, use --label_offset=-1.",
            min(labels),
        )


def _check_names(paths):
    names = [os.path.basename(path) for path in paths]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else 0
    if twice:
        raise ConfigError(
            f"two of the files are named {min(twice)}, so their indexes would collide; index each "
            f"folder as a data set of its own."
        )


def _class_names(output):
    names = Dataset.open(output).class_names
    return names and list(names)


def _folder_of(paths):
    folders = {os.path.dirname(path) for path in paths}
    if len(folders) > 1:
        raise ConfigError(
            f"the files are in {len(folders)} folders; name the output folder with --output."
        )
    return folders.pop() or "."


def _name_from(output, path):
    """A shard's path as stored in the manifest: the bare file name if it is in `output`."""
    if os.path.dirname(path) == output.rstrip("/"):
        return os.path.basename(path)
    if is_local(path) and is_local(output):
        same = os.path.realpath(os.path.dirname(path)) == os.path.realpath(output)
        return os.path.basename(path) if same else os.path.abspath(path)
    return os.path.abspath(path) if is_local(path) else path


def _warn_of_gaps(paths):
    """Warns of missing files, where names such as train-00003-of-01024 state the total."""
    numbered = [re.search(r"(\d+)-of-(\d+)", os.path.basename(path)) for path in paths]
    if all(numbered):
        totals = {int(match[2]) for match in numbered}
        missing = sorted(set(range(min(totals))) - {int(match[1]) for match in numbered})
        if missing and len(totals) == 1:
            logging.warning(
                "%d of %d files are missing, the first is number %d; their images are left out.",
                len(missing),
                min(totals),
                missing[0],
            )


def _bad_record(path, offset, fault, what):
    return f"the record in {path} at offset {offset} {fault}. --max_bad_share {what}."


def _result(output):
    dataset = Dataset.open(output)
    labels = dataset.labels()
    labels = labels[labels != schema.NO_LABEL]
    with files.opened(os.path.join(output, REJECTED), "r") as file:
        rejected = sum(1 for _ in file)
    return {
        "output": output,
        "manifest": os.path.join(output, MANIFEST),
        "rows": dataset.rows,
        "shards": len(dataset.shards),
        "rejected": rejected,
        "labels": [int(labels.min()), int(labels.max())] if labels.size else None,
    }
