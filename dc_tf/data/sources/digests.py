"""A set of 16-byte digests that scales to 100 million images: 26 bytes each, against 130 in a dict.

seen = Digests()
seen.add(digest, row=7)      # None: the digest is new
seen.add(digest, row=9)      # 7: the first row with this digest
"""

import numpy as np

BYTES = 16
_LEAST_MERGE = 1 << 16


class Digests:
    """Maps each digest to its first row: sorted arrays, and a dict of recent additions.

    The dict is merged into the arrays once it has 1/16 of their length, so it stays small and each
    digest is moved a logarithmic number of times.
    """

    def __init__(self):
        self._digests = np.empty(0, f"S{BYTES}")
        self._rows = np.empty(0, np.int64)
        self._newest = {}

    def __len__(self):
        return len(self._digests) + len(self._newest)

    def add(self, digest, row) -> int | None:
        """Adds a digest unless it is present.

        Args:
            digest: 16 bytes.
            row: int, the row it belongs to.

        Returns:
            None if it was added, else the row of the earlier one.
        """
        first = self._newest.get(digest)
        if first is None:
            first = self._find(digest)
        if first is None:
            self._newest[digest] = row
            if len(self._newest) >= max(_LEAST_MERGE, len(self._digests) // 16):
                self._merge()
        return first

    def extend(self, digests, first_row) -> None:
        """Adds the digests of consecutive rows; all must be distinct and new.

        Args:
            digests: bytes, 16 for each.
            first_row: int, the row of the first.
        """
        digests = np.frombuffer(digests, f"S{BYTES}")
        self._insert(digests, first_row + np.arange(len(digests), dtype=np.int64))

    def _find(self, digest):
        # NumPy strips trailing zeros of strings; digests of equal length still compare correctly.
        place = int(np.searchsorted(self._digests, np.bytes_(digest)))
        if place < len(self._digests) and self._digests[place] == digest.rstrip(b"\0"):
            return int(self._rows[place])
        return None

    def _merge(self):
        self._insert(
            np.array(list(self._newest), f"S{BYTES}"),
            np.fromiter(self._newest.values(), np.int64, len(self._newest)),
        )
        self._newest = {}

    def _insert(self, digests, rows):
        order = np.argsort(digests)
        digests = digests[order]
        places = np.searchsorted(self._digests, digests)
        self._digests = np.insert(self._digests, places, digests)
        self._rows = np.insert(self._rows, places, rows[order])
