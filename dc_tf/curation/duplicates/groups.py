"""Groups of rows that pairs connect, and the row of each group that stays.

rows, group = grouped(first, second)          # union of pairs: connected components
keepers = choose_keepers(group, rows, pixels, closeness)
"""

import numpy as np


def connecting(first, second) -> tuple[np.ndarray, np.ndarray]:
    """As few pairs as connect the same rows: each row beside the lowest of its group.

    Args:
        first, second: (n,) int64 row ids.
    """
    rows, group = grouped(first, second)
    lowest = rows[np.unique(group, return_index=True)[1]][group]
    is_other = rows != lowest
    return lowest[is_other], rows[is_other]


def grouped(first, second) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some pairs, and which of them are connected, directly or through others.

    Args:
        first, second: (n,) int64 row ids.

    Returns:
        (m,) int64 distinct row ids, ascending, and (m,) int64 group of each; groups are numbered
        by their lowest row.
    """
    if not len(first):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    from scipy.sparse import coo_array  # takes nearly half a second to import
    from scipy.sparse.csgraph import connected_components

    rows, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    left, right = np.split(places, 2)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(rows),) * 2)
    _, group = connected_components(graph, directed=False)
    lowest, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    rank = np.empty(len(lowest), np.int64)
    rank[np.argsort(lowest)] = np.arange(len(lowest))
    return rows, rank[group]


def choose_keepers(rows, group, pixels, closeness) -> np.ndarray:
    """(groups,) int64 position of the row that stays, of each group.

    It is the one with the most pixels; of several, the one nearest its cluster's centroid; of
    several, the one with the lowest row id.

    Args:
        rows: (n,) int64 row ids.
        group: (n,) int64 in [0, groups), each used.
        pixels: (n,) int64, width times height.
        closeness: (n,) float, cosine with the centroid of the row's cluster.
    """
    order = np.lexsort((rows, -np.asarray(closeness), -np.asarray(pixels), group))
    return order[np.unique(group[order], return_index=True)[1]]
