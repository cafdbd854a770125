"""Exact rankings of a database by the dot product with queries.

for ranked in rankings(database, queries): ...
"""

from collections.abc import Iterator

import numpy as np

_RANKED = 1 << 24  # row ids in memory at a time


def rankings(database, queries) -> Iterator[np.ndarray]:
    """Yields for each query (n,) int64 database row ids by descending dot product; exact.

    Args:
        database: (n, d) float32.
        queries: (q, d) float32.
    """
    import faiss  # slow to import

    index = faiss.IndexFlatIP(database.shape[1])
    index.add(database)
    chunk = max(1, _RANKED // len(database))
    for start in range(0, len(queries), chunk):
        yield from index.search(queries[start : start + chunk], len(database))[1]
