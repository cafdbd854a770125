"""The folder of a run: every path in it, and writing that is complete or absent.

run = RunDir("/runs/mine")
run.checkpoints, run.clustering(stage=1, round_index=0), run.metrics ...
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import uuid

from absl import logging

from dc_tf.errors import ConfigError

# What file systems answer that have no renaming of folders.
_NO_RENAME = (errno.EMFILE, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


class RunDir:
    """Paths inside a run folder; all workers of a run see the same one.

    Attributes:
        path: absolute path of the folder.
    """

    def __init__(self, path: str):
        if not path:
            raise ConfigError("--workdir is empty; name a folder that all workers can write.")
        require_mounted(path, "--workdir")
        self.path = os.path.abspath(os.path.expanduser(path))

    @property
    def config(self) -> str:
        """The experiment as it runs, all settings, YAML."""
        return os.path.join(self.path, "experiment.yaml")

    @property
    def data(self) -> str:
        """What the data set was when the run began."""
        return os.path.join(self.path, "data.json")

    @property
    def metrics(self) -> str:
        """One JSON object a line: step, losses, accuracies, speed; also one per clustering."""
        return os.path.join(self.path, "metrics.jsonl")

    @property
    def summaries(self) -> str:
        """TensorBoard event files."""
        return os.path.join(self.path, "tensorboard")

    @property
    def result(self) -> str:
        """The JSON result of the finished run."""
        return os.path.join(self.path, "result.json")

    @property
    def failed_step(self) -> str:
        """Where training stood when a loss was not finite, and its figures."""
        return os.path.join(self.path, "failed_step.json")

    @property
    def checkpoints(self) -> str:
        """A folder for each checkpoint, the newest `keep_checkpoints` and those of stages' ends."""
        return os.path.join(self.path, "checkpoints")

    @property
    def clusterings(self) -> str:
        """A folder for each clustering."""
        return os.path.join(self.path, "clusterings")

    @property
    def pulses(self) -> str:
        """What each worker is at, for the watchdog."""
        return os.path.join(self.path, "pulses")

    @property
    def stacks(self) -> str:
        """What the threads of workers that were held up were at."""
        return os.path.join(self.path, "stacks")

    @property
    def lock(self) -> str:
        """Held by the first worker of the run that is going on."""
        return os.path.join(self.path, "run.lock")

    def log(self, rank: int) -> str:
        """What a worker has logged."""
        return os.path.join(self.path, "logs", f"worker-{rank:05d}.log")

    def clustering(self, stage: int, round_index: int) -> str:
        """Assignments of one round, written by all workers and read by all."""
        return os.path.join(self.clusterings, f"stage-{stage:02d}-round-{round_index:04d}")

    def features(self, rank: int) -> str:
        """Features and clustering in progress of one worker; scratch.

        It is on the worker's own disk where DC_TF_SCRATCH names one.
        """
        root = os.environ.get("DC_TF_SCRATCH")
        if not root:
            return os.path.join(self.path, "features", f"worker-{rank:05d}")
        run = hashlib.sha256(self.path.encode()).hexdigest()[:12]  # runs may share a disk
        return os.path.join(root, f"dc_tf-{run}", f"worker-{rank:05d}")

    def remove_features_of_others(self, size: int):
        """Removes what is on this disk of workers that a world of `size` no longer has."""
        folder = os.path.dirname(self.features(0))
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            rank = name.removeprefix("worker-")
            if rank.isdigit() and int(rank) >= size:
                # Workers that share the disk do the same at the same time.
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

    def create(self):
        os.makedirs(self.path, exist_ok=True)


def require_mounted(path: str, setting: str):
    """Refuses a place that only TensorFlow could reach.

    Raises:
        ConfigError: what to do instead.
    """
    if "://" in path:
        raise ConfigError(
            f"{setting}={path} is not a folder on a file system; mount the bucket on all workers "
            "(gcsfuse, s3fs) and name the folder there, or use another shared one. Data sets may "
            "be read from such a place."
        )


@contextlib.contextmanager
def locked(path: str, what: str):
    """Holds a lock file for as long as the process lives, on file systems that can.

    Raises:
        ConfigError: another process holds it; the message says which.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{what} is in use by {file.read().strip() or 'another process'}; wait for it, end "
                "it, or use another folder."
            ) from error
        except OSError as error:  # e.g. an NFS without locks
            logging.warning("%s cannot be locked (%s); see that no other run uses it", what, error)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def claim(path: str, about: dict, setting: str, what: str, free=()):
    """Makes a folder, or recognises it as that of an earlier call for the same.

    Args:
        path: of the JSON file in the folder that says what it is of.
        about: JSON-ready dict that tells one from another.
        setting: name of the setting that named the folder, for messages.
        what: the folder holds, for messages.
        free: keys that may differ.

    Raises:
        ConfigError: it holds something else.
    """
    folder = os.path.dirname(path)
    require_mounted(folder, setting)
    if os.path.exists(path):
        before = read_json(path)
        keys = {*about, *before} - set(free)
        changed = sorted(key for key in keys if about.get(key) != before.get(key))
        if changed:
            raise ConfigError(
                f"{folder} holds other {what} (different: {', '.join(changed)}); use another "
                f"{setting}, or the settings of that one."
            )
        return
    if os.path.isdir(folder) and os.listdir(folder):
        raise ConfigError(f"{folder} holds other files; use another {setting}.")
    os.makedirs(folder, exist_ok=True)
    write_json(path, about)


def write_text(path: str, text: str):
    """Writes a file that is complete or absent: aside, to disk, then renamed."""
    aside = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(aside, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.remove(aside)
        raise


def write_json(path: str, value):
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: str):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def sync_tree(path: str):
    """Brings all files of a folder to disk, so that what is written next cannot come before."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_folder(os.path.join(folder, name))
        sync_folder(folder)


def sync_folder(path: str):
    """Brings a folder's entries, or a file, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_tree(path: str, new: str, order=None):
    """Renames a folder of files; file by file where a file system cannot rename folders.

    Mounted buckets cannot, nor can some layers of containers. What is interrupted there leaves a
    part of the files under either name, so a reader has to look whether all are there.

    Args:
        path, new: of the folder; nothing is at `new`.
        order: key by which names of files are sorted for that.
    """
    try:
        os.replace(path, new)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
    os.makedirs(new)
    for name in sorted(os.listdir(path), key=order):
        os.replace(os.path.join(path, name), os.path.join(new, name))
    os.rmdir(path)


def remove_tree(path: str):
    """Removes a folder if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
