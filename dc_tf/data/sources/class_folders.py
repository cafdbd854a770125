"""Classes from the names of folders, and folders that look like classes but are splits.

folders = ClassFolders("photos", labels_from_folders=True)
for name in names:
    folders.see(name)                        # "train/cat/1.jpg"
folders.check()                              # ConfigError: train and val are splits
folders.names()                              # the classes, sorted
"""

import os
import re

from absl import logging

from dc_tf.errors import ConfigError

_SPLIT = re.compile(
    r"(?P<kind>train|training|trainval|val|valid|validation|dev|test|testing|eval|evaluation|"
    r"holdout|extra|unlabell?ed|query|gallery)"
    r"([-_ ]?(set|split|data|images|imgs|\d{1,4}))?",
    re.IGNORECASE,
)
_SHOWN = 5


class ClassFolders:
    """The first-level folders of a source, seen one file at a time."""

    def __init__(self, input, labels_from_folders, split=None):
        self._input = os.path.join(input, split) if split else input
        self._prefix = f"{split.rstrip('/')}/" if split else ""
        self._labels = labels_from_folders
        self._nested = {}  # first-level folder: whether all of its files are in sub-folders

    def see(self, name) -> None:
        """Takes note of a usable file; `name` is its path relative to the input."""
        first, rest, _ = (name.split("/", 2) + [None, None])[:3]
        if rest is not None:
            deeper = name.count("/") > 1
            self._nested[first] = self._nested.get(first, True) and deeper

    def check(self) -> None:
        """Checks that the folders can be classes.

        Raises:
            ConfigError: there are none, or they are splits or a single folder around the classes.
        """
        names = sorted(self._nested)
        splits = [name for name in names if is_split(name)]
        if not self._labels:
            if len(_kinds(splits)) > 1:
                logging.warning(
                    "%s has the splits %s; all of them are converted. --split=%s takes one.",
                    self._input, _listed(splits), splits[0],
                )  # fmt: skip
            return
        if not names:
            raise ConfigError(
                f"labels_from_folders is set, but {self._input} has no sub-folders with files; "
                f"unset it, or put the images of each class into a folder of its own."
            )
        if splits and (splits == names or self._are_splits(splits)):
            raise ConfigError(self._of_splits(splits))
        if len(names) == 1 and self._nested[names[0]]:
            raise ConfigError(
                f"labels_from_folders would make one class of {self._input}, {names[0]!r}, since "
                f"all files are in sub-folders of {names[0]}; use --split={self._prefix}{names[0]} "
                f"to take the classes from these."
            )

    def names(self, siblings=()) -> list[str] | None:
        """The class names, or None without.

        Args:
            siblings: names of the class folders of each other split, a list for each. Splits that
                share a class are numbered alike, also where one lacks a class.
        """
        if not self._labels:
            return None
        shared = [names for names in siblings if not self._nested.keys().isdisjoint(names)]
        return sorted(self._nested.keys() | {name for names in shared for name in names})

    def _are_splits(self, splits):
        """Whether these are splits beside other folders; a class may well be named `train`."""
        flat = not all(self._nested.values())
        return len(_kinds(splits)) > 1 or (flat and any(self._nested[name] for name in splits))

    def _of_splits(self, splits):
        nested = [name for name in splits if self._nested[name]]
        start = f"{self._input} has the folders {_listed(splits)}, which are splits and not classes"
        if nested:
            best = next((name for name in nested if name.lower().startswith("tr")), nested[0])
            return (
                f"{start}; use --split={self._prefix}{best} to convert {self._input}/{best} with "
                f"the classes inside it."
            )
        return (
            f"{start}, and they have no sub-folders; unset labels_from_folders, or put the images "
            f"of each class into a folder of its own inside them."
        )


def is_split(name) -> bool:
    """Whether a folder of this name holds a split, such as train, val2017 or test_images."""
    return _SPLIT.fullmatch(name) is not None


def class_of(name) -> str | None:
    """The first-level folder of a relative path, or None."""
    first, separator, _ = name.partition("/")
    return first if separator else None


def shown(names) -> list[str] | None:
    """Names of folders as text: bytes that are not UTF-8 become `\\xe4`.

    Raises:
        ConfigError: two of them would become one.
    """
    if names is None:
        return None
    texts = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ConfigError(f"two folders would become one class, {twice!r}; rename one of them.")
    return texts


def no_such_split(input, split, folders) -> ConfigError:
    """The error for a split that an input has not; `folders` are the names of those it has."""
    there = f"its folders are {_listed(sorted(folders))}" if folders else "it has no folders"
    return ConfigError(f"split is {split!r}, but {input} has no such folder; {there}.")


def _kinds(splits):
    return {_SPLIT.fullmatch(name)["kind"].lower()[:2] for name in splits}


def _listed(names):
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
