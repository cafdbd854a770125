"""Paths of flags and settings: one rule for `~`, and one check of outputs before work starts.

    paths.expand("~/photos")                                 # "/home/me/photos"
    paths.check_folder("/data/new/set", "--output")          # can be made, or is a folder
    paths.check_file("layers.png", "--plot")                 # can be written

URLs such as gs://bucket/x, which only TensorFlow reaches, are passed through; file:///x is /x.
"""

import errno
import os
import stat
import tempfile

from dc_tf.errors import ConfigError

_FILE_URL = "file://"
# Of full disks, which the work itself reports and survives.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def expand(path: str | os.PathLike) -> str:
    """The path with `~` and `~user` replaced by a home folder, and file:///x by /x.

    Raises:
        ConfigError: there is no such user, or file:// is not followed by an absolute path.
    """
    text = os.fspath(path)
    if text.startswith(_FILE_URL):
        local = text.removeprefix(_FILE_URL).removeprefix("localhost")
        if not local.startswith("/"):
            raise ConfigError(f"{text} has no absolute path; write file:///folder/name.")
        return local
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(expanded):
        user = text.partition("/")[0]
        raise ConfigError(
            f"{text} names no home folder: {user} is no user here; write ./{text} for a file of "
            "that name."
        )
    return expanded


def expand_all(paths: str) -> str:
    """Comma-separated paths or patterns, each as by `expand`."""
    return ",".join(map(expand, paths.split(",")))


def check_folder(path: str, setting: str) -> None:
    """Checks that a folder can be made at `path`, or is there and can be written.

    Args:
        path: URLs are not checked.
        setting: name of the flag or argument, for messages.

    Raises:
        ConfigError: says what is in the way.
    """
    path = _named(path, setting)
    if _is_url(path):
        return
    found = _status(path, setting)
    if found is None:
        _check_parents(path, path, setting)
    elif not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{setting}={path} is a file; name a folder.")
    else:
        _check_access(path, path, setting)


def check_file(path: str, setting: str) -> None:
    """Checks that a file can be written at `path`, in a folder that exists.

    Args:
        path, setting: as of `check_folder`.

    Raises:
        ConfigError: says what is in the way.
    """
    path = _named(path, setting)
    if _is_url(path):
        return
    found = _status(path, setting)
    if path.endswith("/") or (found is not None and stat.S_ISDIR(found.st_mode)):
        raise ConfigError(f"{setting}={path} is a folder; name a file.")
    if found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        raise ConfigError(f"{setting}={path} is not a regular file or a device; name another.")
    folder = os.path.dirname(os.path.abspath(path))
    if _status(folder, setting) is None:
        _check_parents(folder, path, setting)
        raise _not_writable(path, setting, f"the folder {folder} does not exist")
    _check_parents(path, path, setting)
    if found is not None:
        _check_access(path, path, setting)


def _named(path, setting) -> str:
    path = os.fspath(path)
    if not path:
        raise ConfigError(f"{setting} is empty; name a place to write to.")
    if "\0" in path:
        raise ConfigError(f"{setting}={path!r} has a zero byte; use another name.")
    if not path.isascii() and path.encode("utf-8", "replace") != os.fsencode(path):
        raise ConfigError(f"{setting}={path!r} is not a UTF-8 name; use another.")
    return path


def _is_url(path):
    return "://" in path


def _status(path, setting):
    """The file's `os.stat_result`, or None where there is none.

    Raises:
        ConfigError: it cannot be known, or is a link that leads nowhere.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        target = os.readlink(path) if os.path.islink(path) else None
    except OSError as error:  # a name that is too long, a loop of links, a folder without access
        raise _not_writable(path, setting, error.strerror) from error
    if target is not None:
        raise _not_writable(path, setting, f"it is a link to {target}, which is missing")
    return None


def _check_parents(place, path, setting):
    """Checks that the folders above `place` can be made, so something in the last that exists."""
    parent = os.path.dirname(os.path.abspath(place))
    while (found := _status(parent, setting)) is None:
        parent = os.path.dirname(parent)
    if not stat.S_ISDIR(found.st_mode):
        raise _not_writable(path, setting, f"{parent} is a file")
    _check_access(parent, path, setting)
    try:
        # Permissions do not say all: those of root, /proc, some network file systems.
        os.rmdir(tempfile.mkdtemp(prefix=".dc_tf-", dir=parent))
    except OSError as error:
        if error.errno not in _FULL:
            raise _not_writable(path, setting, f"nothing can be made in {parent}") from error


def _check_access(place, path, setting):
    """Checks that this process may write to an existing file or folder."""
    mode = os.W_OK | os.X_OK if os.path.isdir(place) else os.W_OK
    if os.access(place, mode):
        return
    read_only = os.statvfs(place).f_flag & os.ST_RDONLY
    reason = "is on a read-only file system" if read_only else "is not writable for this user"
    raise _not_writable(path, setting, f"{place} {reason}")


def _not_writable(path, setting, reason):
    return ConfigError(f"{setting}={path} cannot be written: {reason}; use another place.")
