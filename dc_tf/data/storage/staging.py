"""A data set in the making: what is finished waits in a folder inside, until all of it is.

    with Staging("/data/mine", job={"what": "convert", "quality": 92}) as staging:
        for note in staging.notes():                     # what an interrupted call had finished
            ...
        ...                                            # writes staging.path("3.tfrecord")
        staging.add_note({"shard": ..., "place": 4711})  # from here on it counts as finished
        staging.commit({"3.tfrecord": "shard-00003-of-00004.tfrecord"}, manifest)

A process may be killed at any time. Notes and manifest are written aside and renamed, so each is
whole or absent, and a commit that was cut off is repeated with the same result.
"""

import fcntl
import itertools
import json
import os

from dc_tf.data.storage import files
from dc_tf.data.storage.files import is_local, sync
from dc_tf.data.storage.manifest import INDEX_SUFFIX, MANIFEST
from dc_tf.errors import ConfigError

FOLDER = ".writing"
_JOB, _LOCK = "job.json", "lock"


class Staging:
    """The unfinished part of a data set folder. A context manager, for one process at a time.

    Leaving it without a commit keeps what is finished for the next call of the same job; without a
    job everything is removed. A data set that is to be replaced stays usable until the commit.
    """

    def __init__(self, path, job=None, overwrite=False, alone=True):
        """Prepares.

        Args:
            path: folder of the data set, created if missing.
            job: dict for JSON that decides what is written, or None.
            overwrite: whether to replace a data set that is there, and to drop the staging of
                another job. Other files are left alone.
            alone: whether other files in the folder, or the staging of another job, are a reason to
                refuse it. A staging is dropped else.

        Raises:
            ConfigError: the folder holds something and `overwrite` is not set.
        """
        self._output = os.fspath(path)
        self._job = _plain(job)
        self._lock = None
        self._noted = 0  # notes that are there for sure
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
        self._release_lock()

    def path(self, name):
        """Path of a file of the staging."""
        return os.path.join(self._output, FOLDER, name)

    def notes(self):
        """Yields the notes in the order in which they were added."""
        for number in itertools.count():
            if not files.exists(self.path(f"{number}.json")):
                return
            yield _read_json(self.path(f"{number}.json"))

    def add_note(self, note):
        """Remembers that something is finished: files of the staging are whole, a place is reached.

        Args:
            note: dict for JSON.
        """
        number = next(n for n in itertools.count(self._noted) if not self._has(f"{n}.json"))
        self.write(f"{number}.json", json.dumps(note))
        self._noted = number + 1

    def forget_notes(self, kept):
        """Removes all notes but the first `kept`."""
        self._noted = kept
        numbers = itertools.takewhile(lambda n: self._has(f"{n}.json"), itertools.count(kept))
        for number in reversed(list(numbers)):  # a gap in the middle would hide later ones
            files.remove(self.path(f"{number}.json"))

    def write_bytes(self, name, content):
        """Writes a file; a note says when it is whole."""
        with files.opened(self.path(name), "wb") as file:
            file.write(content)
        sync(self.path(name))

    def write(self, name, content):
        """Writes a text file that is whole or absent; `content` is str or an iterable of them."""
        aside = self.path(name) + ".tmp"
        with files.opened(aside, "w") as file:
            file.write("")  # without any write there would be no file
            for part in [content] if isinstance(content, str) else content:
                file.write(part)
        sync(aside)
        files.rename(aside, self.path(name))

    def is_committing(self):
        """Whether a commit was begun: some files may have been moved already."""
        return self._has(MANIFEST)

    def commit(self, moves, manifest):
        """Puts files in place of the data set that was there, the manifest last.

        Args:
            moves: dict of names in the staging to names in the data set.
            manifest: dict for JSON.
        """
        if not self.is_committing():
            self.write(MANIFEST, json.dumps(manifest, indent=1))
        # What is adopted may be a data set of ours that lies in the same folder.
        kept = {*moves.values(), *(shard["name"] for shard in manifest["shards"])}
        _remove_data_set(self._output, os.path.join(self._output, MANIFEST), kept)
        for name, final in moves.items():
            if self._has(name):
                self._move(name, final)
        self._move(MANIFEST, MANIFEST)
        sync(self._output)
        self.discard()

    def discard(self):
        """Removes the staging, and what a commit that was cut off has moved already."""
        if self.is_committing():
            _remove_data_set(self._output, self.path(MANIFEST), ())
        self._release_lock()
        if files.exists(self.path("")):
            files.remove_folder(self.path(""))

    def _continues(self):
        return self._job is not None and _read_job(self._output) == self._job

    def _has(self, name):
        return files.exists(self.path(name))

    def _move(self, name, final):
        files.rename(self.path(name), os.path.join(self._output, final))

    def _take_lock(self):
        if not is_local(self._output):
            return
        self._lock = open(self.path(_LOCK), "w")
        try:  # The system gives it back when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release_lock()
            raise ConfigError(f"Another process is writing to {self._output}; wait.") from error

    def _release_lock(self):
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def is_begun(path):
    """Whether a folder holds a data set, whole or unfinished."""
    names = (MANIFEST, os.path.join(FOLDER, _JOB))
    return any(files.exists(os.path.join(path, name)) for name in names)


def check_output(path, overwrite):
    """Refuses a folder that must not be written to.

    Raises:
        ConfigError: it is a file, or holds something and `overwrite` is not set.
    """
    if not files.exists(path):
        return
    if not files.is_folder(path):
        raise ConfigError(f"The output {path} is a file; give a folder.")
    left = [name for name in files.names_in(path) if name != FOLDER]
    if left and not overwrite:
        raise ConfigError(
            f"The output {path} is not empty (it has {left[0]}); give a new folder, or --overwrite "
            f"to replace the data set in it."
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
        f"{path} holds an unfinished data set that was begun with another input or other settings "
        f"({differences}). Finish it with what it was begun with, or use --overwrite to drop it."
    )


def _check_shards(path):
    """Refuses a folder with files that a data set written there would replace, but are not ours."""
    ours = set()
    for manifest in (os.path.join(path, MANIFEST), os.path.join(path, FOLDER, MANIFEST)):
        listed = _read_json(manifest) if files.exists(manifest) else None
        if isinstance(listed, dict) and not listed.get("adopted"):
            ours |= {shard["name"] for shard in listed.get("shards", [])}
    names = files.names_in(path) if files.is_folder(path) else []
    for name in names:
        if name.startswith("shard-") and name.endswith(".tfrecord") and name not in ours:
            raise ConfigError(
                f"{path} holds {name}, which belongs to somebody else: no data set that was "
                f"written there lists it. Give another folder, or move it away."
            )


def _remove_data_set(path, manifest_path, kept):
    """Removes the files that a manifest lists, but for the names `kept`, and the manifest itself.

    Shards that were adopted belong to somebody else: only their indexes go.
    """
    if not files.exists(manifest_path):
        return
    manifest = _read_json(manifest_path)
    # The manifest first: from here on the folder counts as incomplete.
    files.remove(manifest_path)
    shards = manifest.get("shards", []) if isinstance(manifest, dict) else []
    for shard in shards:
        name = os.path.basename(shard["name"])
        for file in [name + INDEX_SUFFIX] + ([] if manifest.get("adopted") else [name]):
            if file not in kept and files.exists(os.path.join(path, file)):
                files.remove(os.path.join(path, file))


def _read_job(path):
    name = os.path.join(path, FOLDER, _JOB)
    return _read_json(name) if files.exists(name) else None


def _read_json(path):
    try:
        with files.opened(path, "r") as file:
            return json.loads(file.read())
    except (ValueError, OSError):
        return None


def _plain(value):
    return json.loads(json.dumps(value))
