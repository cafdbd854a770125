"""Predicts what a bank of features takes on disk and in memory (`training/features/bank.py`).

bank = BankSize.of(stage, batch, rows, dim)
bank.shared_bytes, bank.host_bytes
"""

import dataclasses

from dc_tf.clustering.cost.model import ITEM_BYTES

# Features, as float32, after which a worker writes a part.
PART_BYTES = 64 << 20
# Row and order of a row that was drawn.
_INDEX_BYTES = 16
# Rows that were drawn, while they are sorted: as they came, joined, and sorted.
_COPIES = 3


@dataclasses.dataclass(frozen=True)
class BankSize:
    """Bytes of a bank; none without one.

    Attributes:
        shared_bytes: most on the disk of the run folder: the bank, the next one while it is
            written, and what all steps between two clusterings have kept.
        host_bytes: in the memory of one worker.
    """

    shared_bytes: int = 0
    host_bytes: int = 0

    @classmethod
    def of(cls, stage, batch, rows, dim) -> "BankSize":
        """The bank of a stage.

        Args:
            stage: experiment.Stage.
            batch: BatchPlan.
            rows: N.
            dim: length of the features.
        """
        if not stage.has_bank or stage.rounds == 1:
            return cls()
        row = dim * ITEM_BYTES[stage.clustering.store_dtype]
        steps = batch.steps(rows) * stage.reassign_every
        seen = steps * batch.batch_size // stage.rotations
        own = steps * batch.per_worker * (row + _INDEX_BYTES)
        held = min(own, PART_BYTES + batch.per_worker * _INDEX_BYTES)
        return cls(2 * rows * row + seen * (row + _INDEX_BYTES), _COPIES * held)
