"""Files and folders that are written completely or not at all; locks and owners of folders.

    atomic.write_file(path, lambda file: np.save(file, array))
    atomic.write_json(path, {"rows": 7})

    staging = atomic.stage_folder(path)        # fill it, then
    atomic.commit_folder(path, last="position.json")

After a crash of the process or of the machine a path has its old content or its new one, never a
part, and content and name are on disk when a call returns. That needs a file system, local or
mounted; `data/storage/files.py` writes to addresses that only TensorFlow can reach.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from dc_tf.errors import ConfigError

# Errors of file systems that cannot rename folders.
_NO_RENAME = (errno.EMFILE, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
_STAGED_FILE, _STAGED_FOLDER = ".tmp", ".partial"


def write_file(path: str, write: Callable, concurrent: bool = False) -> None:
    """Writes a file; the old content of `path` stays until the new one is on disk.

    Args:
        path: in an existing folder.
        write: function of the opened binary file.
        concurrent: as of `replacing`.
    """
    with replacing(path, concurrent) as staging, open(staging, "wb") as file:
        write(file)


def write_text(path: str, text: str) -> None:
    """Writes a text file, as `write_file`."""
    write_file(path, lambda file: file.write(text.encode()))


def write_json(path: str, value) -> None:
    """Writes a JSON file, as `write_file`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: str) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is not JSON, or not UTF-8 text.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is corrupt: {error}; restore or remove it.") from error


@contextlib.contextmanager
def replacing(path: str, concurrent: bool = False, ending: str = "") -> Iterator[str]:
    """Yields a path to write to; at the end of the body, that file replaces the one at `path`.

    Args:
        path: in an existing folder.
        concurrent: other processes may write the same file at the same time. A crash then leaves
            a file `PATH.*.tmp`; else it leaves `PATH.tmp`, which the next call replaces.
        ending: of the yielded path, for libraries that choose a format by it.
    """
    staging = f"{path}.{uuid.uuid4().hex}" if concurrent else path
    staging = f"{staging}{_STAGED_FILE}{ending}"
    try:
        yield staging
        sync(staging)
        os.replace(staging, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(staging)  # it may not exist, such as on a full disk
        raise
    sync(os.path.dirname(os.path.abspath(path)))


def staged_file(path: str) -> str:
    """Where a crash leaves the incomplete new content of `path`."""
    return path + _STAGED_FILE


def staged_folder(path: str) -> str:
    """Where a folder is filled before it is moved to `path`."""
    return path + _STAGED_FOLDER


def stage_folder(path: str) -> str:
    """Makes an empty folder, to be filled and then moved to `path` by `commit_folder`."""
    staging = staged_folder(path)
    remove_tree(staging)
    make_folder(staging)
    return staging


def commit_folder(path: str, last: str) -> None:
    """Moves the staged folder to `path` and removes the incomplete or corrupt content there.

    On file systems that cannot rename folders (mounted buckets, some layers of containers) files
    are moved one by one. So `path` is complete if it has the file `last`.

    Args:
        path: as given to `stage_folder`; its content is not complete.
        last: name of a file in the folder.
    """
    staging = staged_folder(path)
    sync_tree(staging)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(path, last))
    remove_tree(path)
    _rename_tree(staging, path, order=lambda name: name == last)
    sync(os.path.dirname(os.path.abspath(path)))


def discard_folder(path: str, last: str) -> None:
    """Removes a committed folder; after a crash it is complete or lacks the file `last`."""
    staging = staged_folder(path)
    remove_tree(staging)
    _rename_tree(path, staging, order=lambda name: name != last)
    remove_tree(staging)


def remove_staged_folders(folder: str) -> None:
    """Removes the staged and discarded folders that crashes have left in `folder`."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.endswith(_STAGED_FOLDER):
            remove_tree(os.path.join(folder, name))


def make_folder(path: str) -> None:
    """Makes a folder and its parents; the names of new ones are on disk when the call returns."""
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        os.makedirs(path, exist_ok=True)  # another process may just have made it
        sync(os.path.dirname(path))


def remove_tree(path: str) -> None:
    """Removes a folder if it exists."""
    if os.path.isdir(path):
        shutil.rmtree(path)


def sync(path: str) -> None:
    """Flushes the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: str) -> None:
    """Flushes a folder, with all files and folders in it, to disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)


def _rename_tree(path, new, order):
    """Renames a folder to `new`, which does not exist; file by file, in `order`, if necessary."""
    try:
        os.replace(path, new)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
    os.makedirs(new)
    for name in sorted(os.listdir(path), key=order):
        os.replace(os.path.join(path, name), os.path.join(new, name))
    sync(new)
    os.rmdir(path)


@contextlib.contextmanager
def locked(path: str, what: str) -> Iterator[None]:
    """Holds a lock file inside `with`, on file systems with locks.

    Raises:
        ConfigError: another process holds it; the message says which.
    """
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{what} is in use by {file.read().strip() or 'another process'}; wait for it, end "
                "it, or use another folder."
            ) from error
        except OSError as error:  # such as NFS without locks
            logging.warning(
                "%s cannot be locked (%s); make sure that no other run uses it", what, error
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def require_mounted(path: str, setting: str) -> None:
    """Refuses an address that only TensorFlow can reach.

    Raises:
        ConfigError: it is one.
    """
    if "://" in path:
        raise ConfigError(
            f"{setting}={path} is not a folder on a file system; mount the bucket on all workers "
            "(gcsfuse, s3fs) and name the folder there, or use another shared one. Only data sets "
            "are read from such addresses."
        )


def refuse_foreign(path: str, owner: dict, setting: str, what: str, free=()) -> None:
    """Makes the folder of a job, unless an earlier call made it for the same job.

    Args:
        path: of the JSON file in the folder that says which job it belongs to.
        owner: JSON-ready dict that identifies the job.
        setting: name of the setting that gives the folder, for messages.
        what: plural name of the content, for messages.
        free: keys of `owner` that may differ.

    Raises:
        ConfigError: the folder belongs to another job, or holds other files.
    """
    folder = os.path.dirname(path)
    require_mounted(folder, setting)
    if os.path.exists(path):
        before = read_json(path)
        keys = {*owner, *before} - set(free)
        changed = sorted(key for key in keys if owner.get(key) != before.get(key))
        if changed:
            raise ConfigError(
                f"{folder} holds other {what} (different: {', '.join(changed)}); use another "
                f"{setting}, or the settings of that one."
            )
        return
    left = os.listdir(folder) if os.path.isdir(folder) else []
    if set(left) - {os.path.basename(staged_file(path))}:
        raise ConfigError(f"{folder} holds other files; use another {setting}.")
    make_folder(folder)
    write_json(path, owner)


def reset_foreign(path: str, owner: dict) -> None:
    """Empties or makes the folder of a job, unless an earlier call made it for the same job.

    Args:
        path: of the JSON file in the folder that says which job it belongs to.
        owner: JSON-ready dict with all that the content depends on.
    """
    owner = json.loads(json.dumps(owner))  # tuples become lists, as in what is read
    with contextlib.suppress(OSError, ValueError):
        if read_json(path) == owner:
            return
    folder = os.path.dirname(path)
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    write_json(path, owner)
