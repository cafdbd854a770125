"""Lists of rows that somebody has selected and named, in a folder.

    selections = Selections("WORK/selections", dataset, about={"run": "/runs/mine"})
    selections.save("blurred", rows=[7, 0])
    selections.all()[0].name, selections.rows("blurred")

`NAME.npy` has the (n,) int64 row ids, ascending, as `dc_tf curate --rows` takes them; `NAME.jsonl`
has a line for each, with the name of its file; `NAME.json` says of which data set and when. Nothing
but this module writes while the browser runs.
"""

import dataclasses
import datetime
import functools
import os
import re

import numpy as np

from dc_tf import atomic
from dc_tf.curation.selection.row_files import read_rows
from dc_tf.data.storage.row_sources import write_sources
from dc_tf.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True)
class Selection:
    """A list of rows without its rows.

    Attributes:
        name: str.
        count: number of rows.
        made: when, ISO 8601 in UTC.
        path: of the .npy file.
    """

    name: str
    count: int
    made: str
    path: str


class Selections:
    """The selections of a data set in a folder, which is made for the first one.

    Args:
        folder: path.
        dataset: Dataset.
        about: dict for JSON, kept with each selection.
    """

    def __init__(self, folder: str, dataset, about=None):
        self.folder = folder
        self._dataset = dataset
        self._about = about or {}

    def save(self, name: str, rows, replace: bool = False) -> Selection:
        """Writes a selection.

        Args:
            name: letters, digits, `_`, `-` and `.`, at most 64.
            rows: (n,) row ids, in any order, repeats allowed.
            replace: whether one of that name may be there.

        Raises:
            ConfigError: such a name cannot be, is taken, or there are no such rows.
            DataError: a shard cannot be read.
        """
        path = self.path(name)
        rows = read_rows(np.asarray(rows, np.int64), "the selection", self._dataset.rows)
        if not rows.size:
            raise ConfigError("nothing is selected; select images or clusters first.")
        if os.path.lexists(path) and not replace:
            raise ConfigError(f"there is a selection {name}; use another name, or replace it.")
        atomic.make_folder(self.folder)
        made = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        about = {"rows": len(rows), "made": made, "data": self._dataset.path}
        about["fingerprint"] = self._dataset.fingerprint()
        atomic.write_file(path, lambda file: np.save(file, rows), concurrent=True)
        write = functools.partial(write_sources, dataset=self._dataset, rows=rows)
        atomic.write_file(self.path(name, "jsonl"), write, concurrent=True)
        atomic.write_json(self.path(name, "json"), {**self._about, **about})
        return Selection(name, len(rows), made, path)

    def all(self) -> list[Selection]:
        """All selections, the newest first."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        found = [self._about_of(stem) for stem in stems if _NAME.fullmatch(stem)]
        known = [one for one in found if one is not None]
        return sorted(known, key=lambda one: (one.made, one.name), reverse=True)

    def rows(self, name: str) -> np.ndarray:
        """(n,) int64 row ids of a selection.

        Raises:
            ConfigError: there is none of that name, or it is corrupt.
        """
        path = self.path(name)
        if not os.path.isfile(path):
            raise ConfigError(f"there is no selection {name}.")
        return read_rows(path, "the selection", self._dataset.rows)

    def path(self, name: str, ending: str = "npy") -> str:
        """Where a file of a selection is: its rows, in "npy", or these and their files, "jsonl".

        Raises:
            ConfigError: such a name cannot be.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a selection; use letters, digits, _, - and ., "
                "at most 64, and no . in front."
            )
        return os.path.join(self.folder, f"{name}.{ending}")

    def _about_of(self, name):
        try:
            about = atomic.read_json(self.path(name, "json"))
            return Selection(name, int(about["rows"]), str(about["made"]), self.path(name))
        except (OSError, ConfigError, KeyError, TypeError, ValueError):
            return None
