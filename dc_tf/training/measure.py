"""Measures the training speed of each stage by a few real steps before the run.

    rates = measure(experiment, plan, cluster)
    print(as_text(plan, rates))                        # of planning/report.py

A measured step is a step of the run: its network, heads, exchanges, images and augmentation, with
random labels and a learning rate of 0. Extraction is measured as a clustering runs it. Of k-means
only the search for the nearest centroid is measured; the cost model estimates the rest
(`clustering/cost/model.py`).

All planned workers measure together if they are connected. A process alone measures the share of
rank 0 without exchanges and assumes that the others are as fast; its batch norm computes as that of
workers that share statistics.
"""

import dataclasses
import time

import numpy as np
import tensorflow as tf
from absl import logging

from dc_tf import memory
from dc_tf.clustering.cost.hardware import CORE, P4D, Product
from dc_tf.clustering.search.backends import make_backend
from dc_tf.data.input.draws import Draws
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.distributed import heartbeat
from dc_tf.distributed.collectives import Solo, broadcast_json
from dc_tf.nn.projection import clustered_features
from dc_tf.planning.plan import RUNTIME_BYTES, Rates
from dc_tf.planning.training_cost import Messages
from dc_tf.training.checkpoint import new_trunk
from dc_tf.training.loop import make_batches
from dc_tf.training.step.learner import Learner
from dc_tf.training.step.projection import new_projection

# Seconds of measured steps per stage, and of measured extraction.
_MEASURED_S = 3.0
# A step that would take longer is measured with fewer images.
_MOST_STEP_S = 10.0
# No further stage is measured after this time.
_ALL_S = 90.0
_WARM_UP = 2
_LEAST_STEPS, _MOST_STEPS = 3, 30
# Cost of a training step in forward passes of the extraction.
_STEP_PASSES = 4
# Most rows and centroids of the measured search.
_SEARCH_ROWS, _SEARCH_CENTROIDS = 4096, 1024
_SEARCH_S = 0.3


def measure(experiment, plan, cluster) -> Rates:
    """Measures on this worker, or on all workers of the plan together.

    Args:
        experiment: experiment.Experiment.
        plan: plan.Plan of the experiment.
        cluster: Cluster of all workers of the plan, or of this process alone.

    Returns:
        Rates, equal on all workers, with a note for each stage that was not measured in full.
    """
    started = time.monotonic()
    with heartbeat.slow_operation("measuring the speed"):
        return _Measurement(experiment, plan, cluster, started).rates()


class _Measurement:
    def __init__(self, experiment, plan, cluster, started):
        self._experiment = experiment
        self._plan = plan
        self._together = cluster.size == plan.workers
        self._neighbours = cluster.task.local_size
        self._cluster = cluster if self._together else _FirstWorker(cluster)
        self._on_gpu = bool(tf.config.list_physical_devices("GPU"))
        self._started = started
        self._reader = FallbackRows(
            RowReader(Dataset.open(experiment.data.path)), experiment.data.max_bad_share
        )
        self._seed = np.random.SeedSequence([experiment.seed, cluster.rank])

    def rates(self) -> Rates:
        free, least = self._free_bytes(), self._least_bytes()
        if self._agreed(free < least):
            text = "not measured: a worker needs at least {:.3g} GB, {:.3g} GB are free"
            text = text.format(least / 1e9, free / 1e9)
            seconds = time.monotonic() - self._started
            return Rates(notes=dict.fromkeys(self._stages(), text), seconds=seconds)
        with self._cluster.strategy.scope():
            trunk = new_trunk(self._experiment).built_at_resolution()
        own = self._extraction(trunk)
        everywhere = float(self._cluster.world.all_sum(np.float32(own)))
        if not self._together:
            everywhere = own * self._plan.workers
        speeds, notes, first_steps_s = {}, {}, 0.0
        for index in self._stages():
            if self._agreed(time.monotonic() - self._started > _ALL_S):
                notes[index] = f"not measured: earlier stages took more than {_ALL_S:.0f} s"
                continue
            images = self._images_of_step(index, own)
            speeds[index], first_s, seconds = self._stage(index, trunk, images)
            first_steps_s += first_s
            whole = self._plan.stages[index].batch.per_worker
            if images < whole:
                notes[index] = f"measured with {images} of a worker's {whole} images"
            logging.info("stage %d: %.1f images/s in %.1f s", index, speeds[index], seconds)
        return Rates(
            speeds,
            self._source(),
            extract_per_s=everywhere,
            machine=self._machine(),
            notes=notes,
            first_steps_s=first_steps_s,
            without_exchanges=not self._together or self._plan.workers == 1,
            seconds=time.monotonic() - self._started,
        )

    def _stages(self):
        return range(len(self._plan.stages))

    def _agreed(self, own):
        """The chief's answer, on all workers."""
        return broadcast_json(bool(own), self._cluster.world)

    def _source(self):
        workers, what = self._plan.workers, "GPU" if self._on_gpu else "CPU"
        if self._together:
            together = f"{workers} workers together" if workers > 1 else "one worker"
            return f"measured here, {together} on {what}"
        return (
            f"measured here on one worker with its {what}, for {workers} that are as fast, "
            "without exchanges"
        )

    def _free_bytes(self):
        if self._on_gpu:
            return min(memory.gpu_memory("free") or [memory.free_memory()])
        return (
            memory.free_memory() / self._neighbours + RUNTIME_BYTES
        )  # the runtime is already loaded

    def _least_bytes(self):
        """Bytes of the weights and of the smallest step."""
        sizes = [stage.size for stage in self._plan.stages]
        state = max(size.state_bytes for size in sizes)
        return state if self._on_gpu else state + RUNTIME_BYTES

    def _extraction(self, trunk):
        """Images per second that this worker extracts."""
        model, rows = self._experiment.model, self._reader.dataset.rows
        spec = tf.TensorSpec([None, model.resolution, model.resolution, 3])
        forward = tf.function(
            clustered_features(trunk, self._projection(trunk)),
            autograph=False,
            input_signature=[spec],
        )
        few = tf.zeros([8, model.resolution, model.resolution, 3])
        forward(few[:1])
        seconds = min(_timed(lambda: forward(few).numpy()) for _ in range(2))
        sizes = [stage.stage.clustering.batch_size for stage in self._plan.stages]
        batch = int(np.clip(8 * _MEASURED_S / seconds / _LEAST_STEPS, 1, max(sizes)))
        count = min(_MOST_STEPS, max(1, int(8 * _MEASURED_S / seconds / batch))) * batch
        resize = self._experiment.data.resize or round(model.resolution * 256 / 224)
        drawn = np.random.default_rng(self._seed).integers(0, rows, count + batch)
        self._cluster.world.barrier()
        threads = self._experiment.threads or None
        with data_errors():
            batches = iter(
                evaluation_batches(self._reader, drawn, batch, model.resolution, resize, threads)
            )
            forward(next(batches)["image"]).numpy()
            done, begun = 0, time.monotonic()
            for images in batches:
                done += len(forward(images["image"]).numpy())
                if time.monotonic() - begun >= _MEASURED_S:
                    break
            return done / (time.monotonic() - begun)

    def _projection(self, trunk):
        """The largest projection that a clustered stage extracts with, or None."""
        stages = [plan for plan in self._plan.stages if plan.stage.clustered]
        if not stages:
            return None
        largest = max(stages, key=lambda plan: plan.size.projection_weights)
        with self._cluster.strategy.scope():
            return new_projection(largest.stage, trunk)

    def _images_of_step(self, index, extracted_per_s):
        """Images per worker in a measured step, fewer if time or memory are short."""
        stage = self._plan.stages[index]
        batch, accumulate = stage.batch, stage.stage.accumulate
        views = stage.stage.views.relative_cost(self._experiment.model.resolution)
        step_s = _STEP_PASSES * views * batch.per_worker / extracted_per_s
        room = self._free_bytes() - self._least_bytes()
        part, parts = batch.per_served // accumulate, accumulate
        served = batch.per_worker // batch.per_served

        def too_much():
            share = part * parts / batch.per_served
            activations = stage.size.activation_bytes * part * accumulate / batch.per_served
            return share * step_s > _MOST_STEP_S or activations > room

        while too_much() and (parts > 1 or part > 1):
            if parts > 1:
                parts -= 1
            else:
                part = -(-part // 2)
        images = served * part * parts
        return broadcast_json(images, self._cluster.world)

    def _stage(self, index, trunk, images):
        """(images per second of all workers, seconds of the first step, seconds of all steps)."""
        started = time.monotonic()
        planned = self._plan.stages[index]
        batch, stage = planned.batch, planned.stage
        shrunk = images // (batch.per_worker // batch.per_served)
        parts = max(1, shrunk * stage.accumulate // batch.per_served)
        workers = batch.topology.workers
        batch = dataclasses.replace(batch, batch_size=images * workers)
        learner = Learner(
            self._cluster,
            batch,
            trunk,
            stage.replace(accumulate=parts, batch_size=images * workers),
            self._experiment.model,
            seed=self._experiment.seed,
            stage_index=index,
            statistics=self._statistics(stage, planned.batch.topology),
        )
        learner.start_round(0)
        learner.set_learning_rate(0.0)
        batches = iter(self._batches(batch, stage, images))

        def step():
            with data_errors():
                learner.step(next(batches), tf.constant(0)).numpy()

        first_s = _timed(step)
        seconds = [_timed(step) for _ in range(_WARM_UP)]
        steps = int(np.clip(_MEASURED_S / seconds[-1], _LEAST_STEPS, _MOST_STEPS))
        steps = broadcast_json(steps, self._cluster.world)
        begun = time.monotonic()
        for _ in range(steps):
            step()
        taken = broadcast_json((time.monotonic() - begun) / steps, self._cluster.world)
        return images * workers / taken, first_s, time.monotonic() - started

    def _statistics(self, stage, topology):
        """Of one process for many: a group, since batch norm computes otherwise in one."""
        machine = P4D if self._on_gpu else CORE
        messages = Messages.of(self._experiment.model, stage, topology, machine)
        members = messages.statistics_members
        return Twins() if members > 1 and not self._together else None

    def _batches(self, batch, stage, images):
        """Batches of random images with random labels, enough for all measured steps."""
        steps = 1 + _WARM_UP + _MOST_STEPS
        random = np.random.default_rng(self._seed)
        served = batch.topology.served(self._cluster.rank)
        supers = np.tile(np.repeat(np.array(served, np.int32), images // len(served)), steps)
        count = len(supers)
        shape = count if stage.clusterings == 1 else (count, stage.clusterings)
        draws = Draws(
            row=random.integers(0, self._reader.dataset.rows, count),
            rotation=supers % batch.rotations * (4 // batch.rotations),
            super_id=supers,
            sub_id=random.integers(0, max(1, stage.sub_clusters), shape, np.int32),
            seed=random.integers(0, 2**31, (count, 2), np.int32),
        )
        return make_batches(self._experiment, stage, self._reader, batch, draws)

    def _machine(self):
        """The machine of `clustering/cost/hardware.py` with the measured speed of the search."""
        machine = P4D if self._on_gpu else CORE
        for stage in self._plan.stages:
            if stage.clustering is None:
                continue
            problem = stage.clustering.problem
            k = min(max(problem.clusters, problem.sub_clusters), _SEARCH_CENTROIDS)
            flops = _search_flops(stage.stage.clustering, k, problem.dim)
            machine = dataclasses.replace(machine, **{problem.precision: Product(flops, 0.0)})
        return machine


class _FirstWorker:
    """Rank 0 of a larger world, played by a single process without exchanges.

    Attributes: as in Cluster.
    """

    rank, size, is_chief = 0, 1, True

    def __init__(self, cluster):
        self.strategy = cluster.strategy
        self.world = Solo()

    def group(self, _) -> Solo:
        return self.world


class Twins:
    """A group of this worker and another one with the same numbers; nothing is sent.

    Attributes: as of Communicator.
    """

    rank, size = 0, 2
    has_all_to_all = True

    def all_sum(self, tensor) -> tf.Tensor:
        return 2 * tensor

    def all_to_all(self, tensor) -> tf.Tensor:
        return tensor


def _search_flops(settings, k, dim):
    """FLOP/s of the search for the nearest of k centroids, including comparisons."""
    random = np.random.default_rng(0)
    search = make_backend(settings.backend, k, dim, settings.precision)
    search.load(random.standard_normal((k, dim), np.float32))
    count = min(_SEARCH_ROWS, search.chunk_rows)
    rows = search.prepared(random.standard_normal((count, dim), np.float32))
    search(rows)
    done, begun = 0, time.monotonic()
    while time.monotonic() - begun < _SEARCH_S:
        search(rows)
        done += 1
    return done * 2.0 * count * k * dim / (time.monotonic() - begun)


def _timed(function):
    begun = time.monotonic()
    function()
    return time.monotonic() - begun
