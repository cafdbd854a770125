"""Replaces each corrupt row by the next valid row in row-id order.

    rows = FallbackRows(RowReader(dataset), max_share=0.001)
    rows.image(13)               # the encoded image of row 13 or, if that is corrupt, of row 14
    batches = training_batches(rows, draws, batch_size=48, size=224)

The replacement depends only on the data, so it is the same on every worker, for any number of
workers and after any resume. Clustering sees the replacement too: a corrupt row is a second copy of
the row that replaces it. A file that cannot be read at all is an error and is not replaced: the
failure may be transient or local to one machine, and workers would differ.
"""

import re
import threading

import numpy as np
from absl import logging

from dc_tf.data.storage.reader import CorruptRow
from dc_tf.errors import DataError


class FallbackRows:
    """Reads images, replacing corrupt rows up to a maximum share. Thread-safe.

    Attributes:
        reader: RowReader of the images.
        dataset: Dataset of the reader.
        max_share: largest fraction of corrupt rows accepted.
    """

    def __init__(self, reader, max_share):
        """Prepares; reads nothing.

        Args:
            reader: RowReader.
            max_share: largest fraction of corrupt rows accepted, in [0, 1].
        """
        self.dataset = reader.dataset
        self.max_share = max_share
        self.reader = reader
        self._next_good = {}  # corrupt row to the row that replaces it
        self._lock = threading.RLock()

    def __len__(self):
        return len(self._next_good)

    def read(self, row_ids, corrupt=None) -> list[bytes]:
        """`RowReader.read`: records without replacement."""
        return self.reader.read(row_ids, corrupt)

    @property
    def allowed(self) -> float:
        """Largest number of corrupt rows accepted; may be fractional."""
        rows = self.dataset.rows
        return min(self.max_share * rows, rows - 1)

    def rows(self) -> np.ndarray:
        """Rows found corrupt so far, (n,) int64, ascending."""
        with self._lock:
            return np.array(sorted(self._next_good), np.int64)

    def replacement(self, row: int) -> int:
        """The row whose image `image` returns: `row` itself unless it was found corrupt."""
        with self._lock:
            return self._next_good.get(row, row)

    def image(self, row) -> bytes:
        """The encoded image of a row, or of its replacement if the row is corrupt.

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
                logging.warning("%s Row %d replaces it.", fault, row)
            return image

    def _look(self, row):
        """(image, None), or (None, reason) if it cannot be used."""
        try:
            example = self.reader.examples([row])[0]
        except CorruptRow as error:
            return None, str(error)
        import tensorflow as tf  # Pipelines that decode have imported it already.

        try:
            tf.io.decode_image(example["encoded"], channels=3, expand_animations=False)
        except tf.errors.OpError as error:
            cause = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message.splitlines()[0]).strip(" .")
            place = ", ".join(filter(None, [self.dataset.describe(row), example["source"]]))
            return None, f"the image of {place} cannot be decoded: {cause}."
        return example["encoded"], None

    def _check_share(self, corrupt, fault):
        rows, path = self.dataset.rows, self.dataset.path
        if corrupt <= self.allowed:
            return
        remedy = f"List the corrupt shards with `dc_tf inspect {path} --verify` and restore them"
        if not self.max_share:
            raise DataError(f"{fault} {remedy}.")
        raise DataError(
            f"{fault} With it, {corrupt} of {rows} rows are corrupt, more than data.max_bad_share "
            f"= {self.max_share:g} allows. {remedy}, or raise data.max_bad_share."
        )
