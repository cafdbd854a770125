"""The interface of a search for the nearest centroid: what k-means needs of a backend.

`nearest.NearestCentroid` implements it on a CPU, `nearest_on_gpu.NearestOnGpu` on a GPU, and
`nearest_in_faiss.FaissNearest` with faiss; `backends.make_backend` chooses one of them.

    search.load(centroids)
    labels, scores = search(search.prepared(rows))
"""

from typing import Any, Protocol

import numpy as np


class NearestSearch(Protocol):
    """Assigns rows to the nearest of k centroids; may be called by several threads at once.

    Attributes:
        name: of the backend, for reports.
        precision: of the products, "float32" or "bfloat16".
        exact: whether labels are right to float32 rounding. Where they are not, `nearer` says for
            which rows a label is an improvement.
        chunk_rows: rows to pass in one call so that temporaries stay within the memory bound.
        row_bytes: of a prepared row.
    """

    name: str
    precision: str
    exact: bool
    chunk_rows: int
    row_bytes: int

    def load(self, centroids, used=None, shift=None, level=0.0) -> None:
        """Takes the centroids of the next calls.

        Args:
            centroids: (k, dim) float32 array.
            used: (k,) bool array; rows are never assigned to a centroid that is not used. At least
                one is. None: all are.
            shift: (dim,) float32 that is subtracted from rows and centroids; None is 0.
            level: squared distance where bfloat16 scores are the finest; float32 ignores it.
        """

    def prepared(self, rows, norms=None) -> Any:
        """What a call takes: shifted rows, which stay valid for every `load` with this shift.

        Args:
            rows: (n, dim) floating array, n > 0, of any dtype in `points.DTYPES`.
            norms: (n,) float32 squared lengths of the shifted rows, if they are known.
        """

    def __call__(self, x) -> tuple[np.ndarray, np.ndarray | None]:
        """The nearest centroid of each prepared row.

        Args:
            x: n rows from `prepared`.

        Returns:
            (n,) int32 labels and their (n,) float32 scores, `x.c - |c|^2 / 2` of shifted x and c,
            or with bfloat16 about `(level - |x - c|^2) / 2`; None for the scores if the backend
            has none.
        """

    def nearer(self, rows, labels, than) -> np.ndarray:
        """(n,) bool: in float32, rows are nearer to the centroids `labels` than to `than`.

        Args:
            rows: (n, dim) floating array, not prepared.
            labels, than: (n,) int32.
        """
