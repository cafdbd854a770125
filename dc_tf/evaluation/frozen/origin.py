"""What `dc_tf embed` has recorded beside a file of features: the data set and the rows.

    found = origin("/data/features/fc7-00000-of-00003.npy")
    found.row_ids    # of the rows of the file

Importing this module does not import TensorFlow.
"""

import dataclasses
import os
import re

import numpy as np

from dc_tf import atomic
from dc_tf.errors import DataError

ABOUT = "embed.json"
_FILE = re.compile(r".+(-\d+-of-\d+\.npy)$")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The data set and the rows that a file of features belongs to.

    Attributes:
        data: fingerprint of the data set.
        row_ids: (n,) int64, the row id of each row of the file.
    """

    data: str
    row_ids: np.ndarray


def origin(path) -> Origin | None:
    """The Origin that `embed` recorded beside a file of features; None if there is no record.

    Raises:
        DataError: the record is corrupt.
    """
    folder, name = os.path.split(path)
    match = _FILE.match(name)
    about = os.path.join(folder, ABOUT)
    rows = match and os.path.join(folder, f"rows{match[1]}")
    if not match or not os.path.isfile(about) or not os.path.isfile(rows):
        return None
    try:
        return Origin(atomic.read_json(about)["data"], np.load(rows, allow_pickle=False))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{rows} or {about} cannot be read ({error}); restore them, or run `dc_tf embed` again "
            "in another folder."
        ) from error
