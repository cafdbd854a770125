"""Replaces a corrupt row by the next row, in row-id order, that is good.

    rows = FallbackRows(RowReader(dataset), max_share=0.001)
    rows.image(13)               # the encoded image of row 13 or, if that is corrupt, of row 14
    batches = training_batches(rows, draws, batch_size=48, size=224)

That depends on nothing but the data, so every worker gives the same image, whatever their number
and whenever the run was resumed; and since clustering sees the stand-in too, a corrupt row simply
is a second copy of the next one. Only damage is replaced: a file that cannot be read at all is an
error of the machine, which may be gone tomorrow, and would make workers differ.
"""

import re
import threading

import numpy as np
from absl import logging

from dc_tf.data.storage.reader import CorruptRow
from dc_tf.errors import DataError


class FallbackRows:
    """Finds good rows, counts corrupt ones, and stops when there are too many. Thread-safe.

    Attributes:
        dataset: of the reader.
        max_share: share of the rows that may be corrupt.
    """

    def __init__(self, reader, max_share):
        """Prepares; reads nothing.

        Args:
            reader: RowReader.
            max_share: share of the rows, in [0, 1], that may be corrupt.
        """
        self.dataset = reader.dataset
        self.max_share = max_share
        self._reader = reader
        self._next_good = {}  # of each row known to be corrupt
        self._lock = threading.RLock()

    def __len__(self):
        return len(self._next_good)

    def read(self, row_ids, corrupt=None):
        """As `RowReader.read`: records as they are, without replacement."""
        return self._reader.read(row_ids, corrupt)

    @property
    def allowed(self):
        """How many rows may be corrupt, a number that need not be whole."""
        rows = self.dataset.rows
        return min(self.max_share * rows, rows - 1)

    def rows(self):
        """The rows that are known to be corrupt, (n,) int64, ascending."""
        with self._lock:
            return np.array(sorted(self._next_good), np.int64)

    def image(self, row):
        """The encoded image of a row or its stand-in.

        Args:
            row: int.

        Returns:
            bytes that TensorFlow can decode.

        Raises:
            DataError: more rows than `max_share` are corrupt, or a shard cannot be read.
        """
        with self._lock:
            corrupt = []
            while True:
                row = self._next_good.get(row, row)
                image, fault = self._look(row)
                if fault is None:
                    break
                self._check_share(len(self._next_good) + len(corrupt) + 1, fault)
                corrupt.append((row, fault))
                row = (row + 1) % self.dataset.rows
            for bad, fault in corrupt:
                self._next_good[bad] = row
                logging.warning("%s Row %d stands in for it.", fault, row)
            return image

    def _look(self, row):
        """(image, None), or (None, why it cannot be used)."""
        try:
            image = self._reader.examples([row])[0]["encoded"]
        except CorruptRow as error:
            return None, str(error)
        import tensorflow as tf  # Pipelines that decode have imported it already.

        try:
            tf.io.decode_image(image, channels=3, expand_animations=False)
        except tf.errors.OpError as error:
            cause = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message.splitlines()[0]).strip(" .")
            place = self.dataset.describe(row)
            return None, f"The image of {place} cannot be decoded: {cause}."
        return image, None

    def _check_share(self, corrupt, fault):
        rows, path = self.dataset.rows, self.dataset.path
        if corrupt <= self.allowed:
            return
        what_to_do = f"`dc_tf inspect {path} --verify` lists what is corrupt; bring it back"
        if not self.max_share:
            raise DataError(f"{fault} {what_to_do}.")
        raise DataError(
            f"{fault} With it, {corrupt} of {rows} rows are corrupt, more than data.max_bad_share "
            f"= {self.max_share:g} allows. {what_to_do}, or raise data.max_bad_share."
        )
