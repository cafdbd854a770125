"""Stages an unfinished data set in a sub-folder, then commits it by renames.

    with Staging("/data/mine", job={"what": "convert", "quality": 92}) as staging:
        for note in staging.notes():                     # finished by an interrupted call
            ...
        ...                                            # writes staging.path("3.tfrecord")
        staging.add_note({"shard": ..., "place": 4711})  # now recorded as finished
        staging.commit({"3.tfrecord": "shard-00003-of-00004.tfrecord"}, manifest)

A process may be killed at any time. Notes and manifest are complete or absent, and an interrupted
commit is repeated with the same result.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator

from dc_tf.atomic import locked
from dc_tf.data.storage import files
from dc_tf.data.storage.files import is_local, sync
from dc_tf.data.storage.manifest import (
    INDEX_SUFFIX,
    MANIFEST,
    STAGING_FOLDER,
    is_indexed_in_place,
)
from dc_tf.data.storage.row_list import ROWS, SOURCES, VIEW
from dc_tf.errors import ConfigError
from dc_tf.paths import check_folder

_JOB, _LOCK = "job.json", "lock"


class Staging:
    """The unfinished part of a data set folder. A context manager, for one process at a time.

    Leaving the context without a commit keeps the finished files for the next call of the same job;
    without a job everything is removed. A data set to be replaced stays usable until the commit.
    """

    def __init__(self, path, job=None, overwrite=False, alone=True):
        """Prepares.

        Args:
            path: folder of the data set, created if missing.
            job: JSON-serializable dict that determines what is written, or None.
            overwrite: whether to replace an existing data set, and to discard the staged files of
                another job. Other files are kept.
            alone: whether to reject a folder that holds other files or the staged files of another
                job. Otherwise such staged files are discarded.

        Raises:
            ConfigError: the folder is not empty and `overwrite` is not set.
        """
        self._output = os.fspath(path)
        check_folder(self._output, "--output")
        self._job = _plain(job)
        self._lock = contextlib.ExitStack()
        self._noted = 0  # lower bound of the number of notes
        if not self._continues():
            if alone or files.exists(os.path.join(self._output, MANIFEST)):
                check_output(self._output, overwrite)
            if alone:
                _check_staging(self._output, self._job, overwrite)
                _check_shards(self._output)

    def __enter__(self):
        files.make_folder(self.path(""))
        self._take_lock()
        if not self._continues():
            self.discard()
            files.make_folder(self.path(""))
            self._take_lock()
            if self._job is not None:
                self.write(_JOB, json.dumps(self._job))
        return self

    def __exit__(self, kind, error, trace):
        if self._job is None:
            self.discard()
        self._lock.close()

    def path(self, name) -> str:
        """Path of a staged file."""
        return os.path.join(self._output, STAGING_FOLDER, name)

    def notes(self) -> Iterator[dict]:
        """Yields the notes in the order in which they were added."""
        for number in itertools.count():
            if not files.exists(self.path(f"{number}.json")):
                return
            yield _read_json(self.path(f"{number}.json"))

    def add_note(self, note) -> None:
        """Records that the staged files written so far are complete.

        Args:
            note: JSON-serializable dict.
        """
        number = next(n for n in itertools.count(self._noted) if not self._has(f"{n}.json"))
        self.write(f"{number}.json", json.dumps(note))
        self._noted = number + 1

    def forget_notes(self, kept) -> None:
        """Removes all notes but the first `kept`."""
        self._noted = kept
        numbers = itertools.takewhile(lambda n: self._has(f"{n}.json"), itertools.count(kept))
        for number in reversed(list(numbers)):  # a gap in the middle would hide later ones
            files.remove(self.path(f"{number}.json"))

    def write_bytes(self, name, content) -> None:
        """Writes a file; it counts as complete once a note is added."""
        with files.opened(self.path(name), "wb") as file:
            file.write(content)
        sync(self.path(name))

    def write(self, name, content) -> None:
        """Writes a text file that is whole or absent; `content` is str or an iterable of them."""
        parts = [content] if isinstance(content, str) else content

        def write(file):
            for part in parts:
                file.write(part.encode())

        files.write_file(self.path(name), write)

    def is_committing(self) -> bool:
        """Whether a commit has started: some files may have been moved already."""
        return self._has(MANIFEST)

    def commit(self, moves, manifest) -> None:
        """Replaces the previous data set by the staged files, the manifest last.

        Args:
            moves: dict of staged names to names in the data set.
            manifest: JSON-serializable dict.
        """
        if not self.is_committing():
            self.write(MANIFEST, json.dumps(manifest, indent=1))
        # The shards indexed in place may be those of the data set being replaced.
        kept = {*moves.values(), *(shard["name"] for shard in manifest.get("shards", ()))}
        _remove_data_set(self._output, os.path.join(self._output, MANIFEST), kept)
        for name, final in moves.items():
            if self._has(name):
                self._move(name, final)
        self._move(MANIFEST, MANIFEST)
        sync(self._output)
        self.discard()

    def discard(self) -> None:
        """Removes the staged files, and those that an interrupted commit has already moved."""
        if self.is_committing():
            _remove_data_set(self._output, self.path(MANIFEST), ())
        self._lock.close()
        if files.exists(self.path("")):
            files.remove_folder(self.path(""))

    def _continues(self):
        return self._job is not None and _read_job(self._output) == self._job

    def _has(self, name):
        return files.exists(self.path(name))

    def _move(self, name, final):
        files.rename(self.path(name), os.path.join(self._output, final))

    def _take_lock(self):
        if is_local(self._output):
            self._lock.enter_context(locked(self.path(_LOCK), self._output))


def is_begun(path) -> bool:
    """Whether a folder holds a complete or unfinished data set."""
    names = (MANIFEST, os.path.join(STAGING_FOLDER, _JOB))
    return any(files.exists(os.path.join(path, name)) for name in names)


def check_output(path, overwrite) -> None:
    """Checks that a folder may be written to.

    Raises:
        ConfigError: it cannot be made or written, or is not empty and `overwrite` is not set.
    """
    check_folder(path, "--output")
    if not files.exists(path):
        return
    left = [name for name in files.names_in(path) if name != STAGING_FOLDER]
    if left and not overwrite:
        replace = ", or --overwrite to replace the data set in it" if MANIFEST in left else ""
        raise ConfigError(
            f"the output {path} is not empty (it has {min(left)}); give a new folder{replace}."
        )


def _check_staging(path, job, overwrite):
    other = _read_job(path)
    if other is None or overwrite:
        return
    job = job or {}
    differences = ", ".join(
        f"{name}: {other.get(name)}, now {job.get(name)}"
        for name in sorted(other.keys() | job.keys())
        if other.get(name) != job.get(name)
    )
    raise ConfigError(
        f"{path} holds an unfinished data set with another input or other settings "
        f"({differences}); finish it with its own input and settings, or discard it with "
        f"--overwrite."
    )


def _check_shards(path):
    """Rejects a folder with shard files that no data set there lists, since they would be lost."""
    ours = set()
    for manifest in (os.path.join(path, MANIFEST), os.path.join(path, STAGING_FOLDER, MANIFEST)):
        listed = _read_json(manifest) if files.exists(manifest) else None
        if isinstance(listed, dict) and not is_indexed_in_place(listed):
            ours |= {shard["name"] for shard in listed.get("shards", [])}
    names = files.names_in(path) if files.is_folder(path) else []
    for name in names:
        if name.startswith("shard-") and name.endswith(".tfrecord") and name not in ours:
            raise ConfigError(
                f"{path} holds {name}, which no data set written there lists; give another "
                f"folder, or move the file away."
            )


def _remove_data_set(path, manifest_path, kept):
    """Removes the files that a manifest lists, except the names `kept`, and the manifest itself.

    Of shards that were indexed in place, only the indexes are removed.
    """
    if not files.exists(manifest_path):
        return
    manifest = _read_json(manifest_path)
    # The manifest first: without it the folder counts as incomplete.
    files.remove(manifest_path)
    for file in _own_files(manifest if isinstance(manifest, dict) else {}):
        if file not in kept and files.exists(os.path.join(path, file)):
            files.remove(os.path.join(path, file))


def _own_files(manifest):
    """Names of the files, besides the manifest, that are removed with a data set."""
    names = [ROWS, SOURCES] if VIEW in manifest else []
    for shard in manifest.get("shards", ()):
        name = os.path.basename(shard["name"])
        names += [name + INDEX_SUFFIX] + ([] if is_indexed_in_place(manifest) else [name])
    return names


def _read_job(path):
    name = os.path.join(path, STAGING_FOLDER, _JOB)
    return _read_json(name) if files.exists(name) else None


def _read_json(path):
    try:
        with files.opened(path, "r") as file:
            return json.loads(file.read())
    except (ValueError, OSError):
        return None


def _plain(value):
    return json.loads(json.dumps(value))
