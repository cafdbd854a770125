"""The output folder of `dc_tf kmeans`: finished, unfinished, or another's.

`clustering.json` is written last: with it the clustering is complete. Until then a sub-folder
has the settings and the state that a restart resumes from; it is removed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import typing

import numpy as np

from dc_tf import atomic
from dc_tf.atomic import read_json, remove_tree, require_mounted
from dc_tf.errors import ConfigError, DataError

if typing.TYPE_CHECKING:
    from dc_tf.clustering.lloyd import KMeansResult


class KMeansDir:
    """Paths and rules of one folder, which all workers see.

    Attributes:
        path: absolute path of the folder.
        centroids, assignments, about: the files of a finished clustering.
        table: the clusters as Parquet, if that was asked for.
        heartbeats, stacks: folders of the watchdogs of the workers.
        lock: held by the chief while the workers run.
        state: folder for the k-means in progress.
    """

    def __init__(self, path):
        if not path:
            raise ConfigError("--output is empty; name a folder that all workers can write.")
        require_mounted(path, "--output")
        self.path = os.path.abspath(os.path.expanduser(path))
        self.centroids = os.path.join(self.path, "centroids.npy")
        self.assignments = os.path.join(self.path, "assignments.npy")
        self.about = os.path.join(self.path, "clustering.json")
        self.table = os.path.join(self.path, "assignments.parquet")
        self._unfinished = os.path.join(self.path, "unfinished_kmeans")
        self._settings = os.path.join(self._unfinished, "settings.json")
        self._marks = os.path.join(self._unfinished, "workers")
        self.state = os.path.join(self._unfinished, "state")
        self._watch = os.path.join(self.path, "kmeans_workers")
        self.heartbeats = os.path.join(self._watch, "heartbeats")
        self.stacks = os.path.join(self._watch, "stacks")
        self.lock = os.path.join(self._watch, "lock")
        self._is_new = not os.path.exists(self.path)

    def check_inputs(self, paths) -> None:
        """ConfigError if the output would overwrite one of its inputs."""
        outputs = (self.centroids, self.assignments, self.about, self.table)
        written = {os.path.realpath(path) for path in outputs}
        for path in paths:
            if os.path.realpath(path) in written:
                raise ConfigError(
                    f"--output={self.path} would overwrite {path}, which is an input; use another "
                    "folder."
                )

    def precision_before(self) -> str:
        """Of the products of the clustering in the folder; "auto" if there is none."""
        return (self._settings_before() or {}).get("precision", "auto")

    def check_settings(self, settings, overwrite) -> None:
        """Refuses to mix or replace clusterings.

        Args:
            settings: dict of what the result depends on, or of a part of it.
            overwrite: whether anything may be replaced.

        Raises:
            ConfigError: says which settings differ.
        """
        if overwrite:
            return
        before = self._settings_before()
        if before is None:
            self._check_no_foreign_files()
            return
        changed = [
            f"{name}: {before.get(name)!r}, {value!r}"
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"{self.path} holds a clustering with other settings ({'; '.join(changed)}); use "
                "another --output, the settings of that one, or --overwrite."
            )

    def tidy(self) -> None:
        """Removes the watchdogs' files at the end; called on every worker.

        Also removes the folder itself if it is empty and did not exist before.
        """
        shutil.rmtree(self._watch, ignore_errors=True)  # Other workers remove them as well.
        if self._is_new:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)

    def check_writable(self, needed_bytes, overwrite) -> None:
        """DataError if the folder cannot be made or written, or its disk has too little space.

        Args:
            needed_bytes: size of the clustering, including the part that exists or is replaced.
            overwrite: whether anything may be replaced.
        """
        if os.path.exists(self.about) and not overwrite:
            return  # Nothing will be written.
        try:
            os.makedirs(self.path, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(bytes(4096))
            free = shutil.disk_usage(self.path).free
            needed_bytes -= self._held_bytes()
        except OSError as error:
            raise DataError(
                f"--output={self.path} cannot be written: {error.strerror}; use another folder."
            ) from error
        if needed_bytes > free:
            raise DataError(
                f"--output={self.path} needs {needed_bytes / 1e9:.3g} GB more and its disk has "
                f"{free / 1e9:.3g} GB free; make room or use another folder."
            )

    def begin(self, settings, overwrite) -> dict | None:
        """Claims the folder for a clustering; called on the chief.

        An unfinished one with the same settings is kept and resumes, also with `overwrite`.

        Returns:
            What `clustering.json` holds, if this clustering is finished and is kept.

        Raises:
            ConfigError: as `check_settings`.
            DataError: the disk is full or fails.
        """
        self.check_settings(settings, overwrite)
        with _disk_errors(self.path):
            if os.path.exists(self.about):
                if not overwrite:
                    remove_tree(self._unfinished)  # left if it was stopped at the end
                    return read_json(self.about)
                os.remove(self.about)  # from here on no clustering is complete
            if self._unfinished_settings() != settings:
                self._empty()
                atomic.write_json(self._settings, settings)
            remove_tree(self._marks)
            os.makedirs(self._marks)
        return None

    def write_mark(self, rank) -> None:
        """Writes this worker's mark, for `missing_marks` to find out whether all see one folder.

        Raises:
            DataError: the folder cannot be written.
        """
        try:
            with open(self._mark(rank), "wb") as file:
                file.write(b"here")
        except OSError as error:
            raise DataError(
                f"--output={self.path} cannot be written by worker {rank}, or is not the folder "
                f"of the chief: {error.strerror}; use one that all workers share."
            ) from error

    def missing_marks(self, size) -> list[int]:
        """Ranks of the workers whose mark is missing."""
        return [rank for rank in range(size) if not os.path.exists(self._mark(rank))]

    def write_part(self, rank, size, assignments) -> None:
        """Writes the assignments of one worker's rows, complete or not at all.

        Raises:
            DataError: the disk is full or fails.
        """
        with _disk_errors(self.path):
            part = np.asarray(assignments, np.int32)
            atomic.write_file(self._part(rank, size), lambda file: np.save(file, part))

    def finish(self, rows, size, centroids, about) -> None:
        """Joins the parts of `size` workers and commits the clustering; called on the chief.

        Raises:
            DataError: the disk is full or fails.
        """
        with _disk_errors(self.path):
            parts = [self._part(rank, size) for rank in range(size)]
            atomic.write_file(self.assignments, lambda file: _join(file, rows, parts))
            atomic.write_file(self.centroids, lambda file: np.save(file, centroids))
            atomic.write_text(self.about, json.dumps(about, indent=1) + "\n")
            remove_tree(self._unfinished)

    def read(self) -> KMeansResult:
        """The finished clustering, with the assignments of all rows.

        Raises:
            DataError: it is not finished or corrupt.
        """
        from dc_tf.clustering.lloyd import KMeansResult  # brings TensorFlow

        try:
            about = read_json(self.about)
            centroids, assignments = np.load(self.centroids), np.load(self.assignments)
            return KMeansResult(
                centroids=centroids,
                assignments=assignments,
                counts=np.bincount(assignments, minlength=len(centroids)),
                objective=about["objective"],
                iterations=about["result"]["iterations"],
                reseeded=about["reseeded"],
                exchanged_bytes=about["exchanged_bytes_per_iteration"],
                backend=about["result"]["backend"],
                precision=about["result"]["precision"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} has no complete clustering ({error}); run `dc_tf kmeans` to its end, "
                "in a new --output if this one is damaged."
            ) from error

    def _settings_before(self):
        """Settings of the clustering in the folder, finished or not; None if there is none."""
        if not os.path.exists(self.about):
            return self._unfinished_settings()
        try:
            return dict(read_json(self.about)["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.about} is not of a dc_tf clustering; use another --output, or --overwrite."
            ) from error

    def _unfinished_settings(self):
        """None if there are none, or they are not complete."""
        try:
            return dict(read_json(self._settings))
        except (OSError, ValueError, TypeError):
            return None

    def _held_bytes(self):
        held = [path for path in (self.centroids, self.assignments) if os.path.exists(path)]
        for folder, _, names in os.walk(self._unfinished):
            held += [os.path.join(folder, name) for name in names]
        return sum(os.path.getsize(path) for path in held)

    def _check_no_foreign_files(self):
        for path in (self.centroids, self.assignments):
            if os.path.exists(path):
                raise ConfigError(
                    f"{path} exists and is not of a dc_tf clustering; use another --output, or "
                    "--overwrite."
                )

    def _empty(self):
        """Removes any clustering, finished or not, and makes room for a new one."""
        remove_tree(self._unfinished)
        for path in (self.centroids, self.assignments, self.table):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        os.makedirs(self._unfinished)

    def _mark(self, rank):
        return os.path.join(self._marks, f"worker-{rank:05d}")

    def _part(self, rank, size):
        return os.path.join(self._unfinished, f"assignments-{rank:05d}-of-{size:05d}.npy")


def _join(file, rows, parts):
    """Writes the arrays of some files, one after the other, as one `.npy`."""
    header = {"descr": "<i4", "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        file.write(np.load(part).astype("<i4", copy=False))


@contextlib.contextmanager
def _disk_errors(path):
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; free space and run the same "
            "command again, which resumes."
        ) from error
