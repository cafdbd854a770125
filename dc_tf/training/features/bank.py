"""The bank of a stage: features of training steps, kept for the next clustering (`features: bank`).

    bank = StageBank(run, cluster, plan, stage, index=0, rows=rows, dim=128)
    bank.resume(global_step)
    bank.start_epoch(round_index, draws, step, global_step)
    bank.add(features)                            # of each step
    bank.flush()                                  # before a checkpoint
    bank.of_round(round_index, global_step)       # a RoundBank, for `reassign`

A worker writes what its steps have seen as parts of a `FeatureBank` in the run folder, which all
workers share, and reads its own block of rows from the parts of all. The last time that a row was
drawn counts, in the order of the global batch, so the bank does not depend on the number of
workers. Rows that were not drawn keep their older features. Clustering is on upright images: of
those that a step has rotated nothing is kept.

Whatever a checkpoint counts as done is in parts that are complete. A run that resumes removes
newer parts and takes the same steps again.

Reference: Caron et al. 2020, appendix A (DeepCluster-v2), which keeps the global crops of the last
epoch; that rows keep older features, and the mean over global crops, are ours.
"""

import collections
import os
import re

import numpy as np
from absl import logging

from dc_tf import atomic
from dc_tf.clustering.store.feature_bank import FeatureBank, Part, covers
from dc_tf.clustering.store.feature_store import STORED_DTYPES, FeatureStore, as_stored
from dc_tf.clustering.store.points import chunks
from dc_tf.distributed import heartbeat
from dc_tf.distributed.collectives import all_agree, all_gather_json
from dc_tf.errors import DataError
from dc_tf.planning.bank_cost import PART_BYTES

# Features of a step are read when so many further steps have started, so a GPU is never idle.
_LAG = 2
_ROUND = re.compile(r"stage-(\d+)-round-(\d+)$")


class StageBank:
    """The bank of one stage, as one worker sees it. All workers make the same calls.

    Args:
        run: RunDir.
        cluster: Cluster.
        plan: BatchPlan of the stage.
        stage: experiment.Stage.
        index: index of the stage in the experiment.
        rows: N.
        dim: length of the features.

    Attributes:
        flush_every: steps after which `flush` is due, so that memory is bounded.
    """

    def __init__(self, run, cluster, plan, stage, index, rows, dim):
        self._run = run
        self._cluster = cluster
        self._plan = plan
        self._stage = stage
        self._index = index
        self._shape = rows, dim
        self._dtype = STORED_DTYPES[stage.clustering.store_dtype]
        self._target = None  # the FeatureBank that steps are written to
        self._seen = None  # what they have seen since the last part
        self.flush_every = max(1, PART_BYTES // (plan.per_worker * dim * 4))

    def resume(self, global_step: int) -> None:
        """Removes what steps after `global_step` have left, and the banks of earlier stages."""
        if self._cluster.is_chief:
            for stage, _, path in self._folders():
                if stage < self._index:
                    atomic.remove_tree(path)
                else:
                    FeatureBank(path, *self._shape).remove_parts(after=global_step)
        self._cluster.world.barrier()

    def prune(self, round_index: int) -> None:
        """Removes the banks before that of a round whose clustering is complete."""
        least = round_index if self._is_read(round_index) else round_index + 1
        for stage, index, path in self._folders():
            if stage == self._index and index < least:
                atomic.remove_tree(path)

    def start_epoch(self, round_index: int, draws, step: int, global_step: int) -> None:
        """Prepares for the steps of an epoch.

        Args:
            round_index: of the round.
            draws: Draws of this worker for the whole epoch.
            step: the first step to be taken in it.
            global_step: steps taken before that, since the run began.
        """
        self.flush()  # of the epoch before
        self._target = self._bank(round_index) if self._is_read(round_index) else None
        self._seen = _Seen(draws, self._plan, self._cluster.rank, step, global_step, self._dtype)

    def add(self, features) -> None:
        """Takes the features of the next step, (b, d) float32, a tensor."""
        if self._target is not None:
            self._seen.add(features)

    def flush(self) -> None:
        """Writes what was added since the last call; on disk when it returns.

        Raises:
            DataError: features are not finite, or the disk is full or fails.
        """
        if self._target is None:
            return
        first, last, rows, order, features = self._seen.take()
        if first == last:
            return
        _check_finite(rows, features)
        part = Part(first, last, self._cluster.size, self._cluster.rank)
        try:
            with heartbeat.slow_operation("bank of features"):
                self._target.write_part(part, rows, order, features)
        except OSError as error:
            raise DataError(
                f"features cannot be written to {self._target.path}: {error}; make room there and "
                "restart."
            ) from error

    def of_round(self, round_index: int, global_step: int) -> "RoundBank":
        """What the bank has for the clustering of a round.

        Args:
            round_index: of the clustering.
            global_step: steps taken before it, since the run began.
        """
        after = self._bank(round_index) if self._is_read(round_index) else None
        if not round_index:
            return RoundBank(None, [], after, self._cluster)
        before = self._bank(round_index - 1)
        parts = self._parts(before)
        first = global_step - self._stage.reassign_every * self._plan.steps(before.rows)
        complete = before.base_size() is not None and covers(parts, first, global_step)
        if all_agree(complete, self._cluster.world):
            return RoundBank(before, parts, after, self._cluster)
        logging.warning(
            "%s lacks features of steps %d to %d; all are extracted instead.",
            before.path,
            first,
            global_step,
        )
        return RoundBank(None, [], after, self._cluster)

    def _is_read(self, round_index):
        """Whether a clustering follows the steps of a round."""
        return round_index + 1 < self._stage.rounds

    def _parts(self, bank):
        """The parts of all workers, the same on each of them.

        A worker names those that it has written; what others have written may not show yet in a
        folder of a network file system.
        """
        rank, size = self._cluster.rank, self._cluster.size
        own = [part.rows_file for part in bank.parts() if part.rank % size == rank]
        names = all_gather_json(own, self._cluster.world)
        return sorted(Part.of_file(name) for name in sum(names, []))

    def _bank(self, round_index):
        return FeatureBank(self._run.bank(self._index, round_index), *self._shape, self._dtype)

    def _folders(self):
        """(stage, round, path) of the banks in the run folder."""
        folder = self._run.banks
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if match := _ROUND.match(name):
                yield *map(int, match.groups()), os.path.join(folder, name)


class RoundBank:
    """The bank as the clustering of one round takes it, and as its steps find it.

    Args:
        before: FeatureBank of the round before, complete; None where features are extracted.
        parts: of `before`, all that count.
        after: FeatureBank of this round, which gets a base; None if no clustering follows it.
        cluster: Cluster.
    """

    def __init__(self, before, parts, after, cluster):
        self._before = before
        self._parts = parts
        self._after = after
        self._own = cluster.rank, cluster.size

    @property
    def has_features(self) -> bool:
        """Whether the bank has the features of all rows; else they are extracted."""
        return self._before is not None

    def fill(self, store: FeatureStore) -> None:
        """Writes this worker's newest features to a store.

        Args:
            store: of the rows that `row_block` gives this worker.

        Raises:
            DataError: a file is corrupt; a disk is full.
        """
        own = range(store.first_row, store.first_row + store.rows)
        with heartbeat.slow_operation("merging the bank"):
            self._write(_stored(self._before.merged(self._parts, own), store))
            store.flush()  # after the base, so a store that is complete has one

    def keep(self, store: FeatureStore) -> None:
        """Puts extracted features into the bank, unless an earlier process has.

        Raises:
            DataError: they were mapped in place before this was done; a disk is full.
        """
        if self._after is None or self._after.has_base(*self._own):
            return
        if store.made_by or store.mapped is not None:
            raise DataError(
                f"{store.path} is whitened, and {self._after.path} has lost the features of "
                "before; remove the former on every worker, so that they are extracted again."
            )
        rows = max(1, PART_BYTES // self._after.row_bytes)
        with heartbeat.slow_operation("bank of features"):
            self._write(chunks(store, rows))

    def _write(self, blocks):
        """Writes blocks as the base of the round, or only consumes them where none is needed."""
        if self._after is None:
            collections.deque(blocks, maxlen=0)
        else:
            self._after.write_base(*self._own, blocks)


class _Seen:
    """Features of steps of one epoch that are not written yet.

    Args:
        draws: Draws of this worker for the epoch.
        plan: BatchPlan.
        rank: of this worker.
        step, global_step: of the next step, in the epoch and in the run.
        dtype: of the bank.
    """

    def __init__(self, draws, plan, rank, step, global_step, dtype):
        shape = -1, plan.per_worker
        self._rows = draws.row.reshape(shape)
        self._upright = (draws.rotation == 0).reshape(shape)
        self._places = places(plan, rank)
        self._batch = plan.batch_size
        self._dtype = dtype
        self._step = step
        self._first = self._next = global_step
        self._started = collections.deque()  # tensors of steps that may not be finished
        self._held = []  # (rows, order, features)

    def add(self, features):
        self._started.append((self._step, self._next, features))
        self._step += 1
        self._next += 1
        if len(self._started) > _LAG:
            self._read(*self._started.popleft())

    def take(self):
        """(first step, last step, rows, order, features) since the last call."""
        while self._started:
            self._read(*self._started.popleft())
        first, self._first = self._first, self._next
        held, self._held = self._held, []
        columns = [np.concatenate(column) for column in zip(*held, strict=True)] or [None] * 3
        return first, self._next, *columns

    def _read(self, step, global_step, features):
        own = self._upright[step]
        kept, _ = as_stored(features.numpy()[own], self._dtype)
        order = global_step * self._batch + self._places[own]
        self._held.append((self._rows[step][own], order, kept))


def places(plan, rank) -> np.ndarray:
    """(per_worker,) int64: places in the global batch of a worker's part of it."""
    first = plan.topology.position(rank) * plan.per_served
    within = first + np.arange(plan.per_served)
    served = np.array(plan.topology.served(rank), np.int64)
    return (served[:, None] * plan.per_super_class + within).ravel()


def _stored(blocks, store):
    """The blocks, each after it was written to the store."""
    for start, block in blocks:
        yield start, store.write(start, block)


def _check_finite(rows, features):
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise DataError(
            f"features of row {rows[int(np.argmin(finite))]} are not finite; lower the learning "
            "rate if the network has diverged, or look at the image (dc_tf inspect)."
        )
