"""DeeperCluster: alternate clustering the whole collection with learning to predict the clusters.

    result = pretrain(experiment, run, cluster)

Every worker runs this program. On a run folder with a checkpoint, it resumes at the exact step.
"""

import dataclasses
import os

import tensorflow as tf

from dc_tf import atomic
from dc_tf.clustering import kept_clustering
from dc_tf.clustering.assignments import Assignments, is_complete
from dc_tf.clustering.cluster_model import ClusterModel
from dc_tf.clustering.kept_clustering import KeptClustering, centroids_folder, prune
from dc_tf.data.input.photometric import Photometric
from dc_tf.data.input.pipeline import training_batches
from dc_tf.data.input.sampler import Sampler
from dc_tf.data.input.views import Views
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import heartbeat, stop_request
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import all_agree
from dc_tf.errors import DataError, Preempted
from dc_tf.planning.stages import plan_stages
from dc_tf.seeds import derive
from dc_tf.training import reassign
from dc_tf.training.checkpoint import (
    Checkpoints,
    Position,
    new_trunk,
    read_position,
)
from dc_tf.training.corrupt_rows import corrupt_rows
from dc_tf.training.features.bank import StageBank
from dc_tf.training.features.calibrate import calibrate, needs_calibration
from dc_tf.training.init_from import initial_weights
from dc_tf.training.monitoring.cluster_pictures import contact_sheet, write_projector
from dc_tf.training.monitoring.metrics import MetricsLog, last_epoch_means
from dc_tf.training.optimizers.learning_rate import epoch_rates
from dc_tf.training.precisions import without_auto
from dc_tf.training.step.learner import Learner
from dc_tf.training.trainer import StageTrainer


def pretrain(experiment, run, cluster) -> dict | None:
    """Runs an experiment, or what is left of it, on this worker's share.

    Args:
        experiment: experiment.Experiment, the same on all workers.
        run: RunDir, shared by all workers.
        cluster: Cluster.

    Returns:
        dict of plain numbers on the chief: rows, workers, rounds, steps, and the last epoch's
        losses and accuracies. None on the others.

    Raises:
        ConfigError: the worker count or data set does not fit the experiment.
        DataError: an image cannot be read, or the loss is not finite.
        Preempted: a worker was asked to stop; the run is saved.
    """
    with heartbeat.slow_operation("preparing"):
        experiment = without_auto(experiment, cluster.world)
        training = Pretraining(experiment, run, cluster)
    for index in range(training.position.stage, len(experiment.stages)):
        training.run_stage(index)
    return training.result()


class Pretraining:
    """A run in progress on one worker.

    Attributes:
        position: Position, the next thing to do.
    """

    def __init__(self, experiment, run, cluster):
        self._experiment = experiment
        self._run = run
        self._cluster = cluster
        self._dataset = Dataset.open(experiment.data.path)
        self._reader = FallbackRows(RowReader(self._dataset), experiment.data.max_bad_share)
        self._corrupt_rows = 0
        self._plans = plan_stages(experiment, self._dataset.rows, cluster.size)
        self._checkpoints = Checkpoints(run, cluster, experiment.keep_checkpoints)
        self._restored = self._checkpoints.latest()
        self.position = read_position(self._restored) if self._restored else Position()
        self._metrics = MetricsLog(run, cluster.is_chief, self.position.global_step)
        self._metrics.write_settings(experiment)
        self._trunk = self._make_trunk()

    def run_stage(self, index: int) -> None:
        """Runs the epochs of a stage: each round clusters, then trains on the clusters."""
        stage = self._experiment.stages[index]
        with heartbeat.slow_operation("preparing"):
            learner = self._learner(index, stage)
            if self.position.stage_begins and needs_calibration(stage, self._experiment.model):
                self._calibrate(learner, index)
            bank = self._bank(index, stage) if stage.has_bank else None
        trainer = StageTrainer(
            self._experiment,
            self._run,
            self._cluster,
            learner,
            self._checkpoints,
            self._metrics,
            self.position,
            bank,
        )
        while trainer.position.epoch < stage.epochs:
            round_index, first, last = stage.round_of(trainer.position.epoch)
            assignments = self._assignments(index, stage, round_index, learner.projection, bank)
            if (trainer.position.epoch, trainer.position.step) == (first, 0):
                learner.start_round(round_index)
            if stage.has_prototypes:
                learner.heads.prototypes.load(self._kept_model(index, round_index))
            self._train_round(index, stage, trainer, assignments, round_index, last, bank)
            self.position = trainer.position
            self._report_corrupt_rows()
            ends = last == stage.epochs
            if ends:
                self.position = dataclasses.replace(self.position, stage=index + 1, epoch=0)
            if bank:
                bank.flush()
            averaged = ends and learner.keeps_averages
            if averaged:
                self._take_averages(learner, index)
            self._checkpoints.save(self.position, learner, replace=averaged)
            self._stop_if_asked()

    def result(self) -> dict | None:
        """The chief's summary of the finished run, also written to `result.json`."""
        if not self._cluster.is_chief:
            return None
        result = {
            "workdir": self._run.path,
            "rows": self._dataset.rows,
            "workers": self._cluster.size,
            "rounds": sum(stage.rounds for stage in self._experiment.stages if stage.clustered),
            "steps": self.position.global_step,
            "corrupt_rows": self._corrupt_rows,
            **last_epoch_means(self._run.metrics),
        }
        atomic.write_json(self._run.result, result)
        self._metrics.close()
        return result

    def _stop_if_asked(self):
        if not all_agree(not stop_request.requested(), self._cluster.world):
            raise Preempted(f"was asked to stop; saved at step {self.position.global_step}")

    def _make_trunk(self):
        """The network, mirrored: initial weights, another run's, or the checkpoint's."""
        with self._cluster.strategy.scope():
            trunk = new_trunk(self._experiment).built_at_resolution()
            if self._experiment.init_from and not self._restored:
                trunk.set_weights(initial_weights(self._experiment))
        if self._restored:
            self._checkpoints.restore_trunk(self._restored, trunk)
        return trunk

    def _learner(self, index, stage) -> Learner:
        learner = Learner(
            self._cluster,
            self._plans[index],
            self._trunk,
            stage,
            self._experiment.model,
            seed=self._experiment.seed,
            stage_index=index,
        )
        if self._restored and not self.position.stage_begins:
            self._checkpoints.restore(self._restored, learner)
        self._restored = None  # later stages continue with the trunk in memory
        return learner

    def _calibrate(self, learner, index):
        """Before a first clustering; again after a restart, since nothing of it is saved."""
        new = not index and not self._experiment.init_from
        calibrate(learner, self._reader, self._experiment, index, self._cluster, trunk=new)

    def _take_averages(self, learner, index):
        """Ends a stage with the averaged weights, and with statistics of batch norm for these.

        Reference: Izmailov et al. 2018, section 3.2.
        """
        with heartbeat.slow_operation("averaging weights"):
            learner.take_averages()
            calibrate(learner, self._reader, self._experiment, index, self._cluster, trunk=True)

    def _bank(self, index, stage) -> StageBank:
        """The features that the steps of a stage keep for its next clustering."""
        dim = stage.feature_dim(self._trunk.feature_dim)
        plan = self._plans[index]
        bank = StageBank(self._run, self._cluster, plan, stage, index, self._dataset.rows, dim)
        bank.resume(self.position.global_step)
        return bank

    def _kept_model(self, index, round_index) -> ClusterModel:
        """What is kept of a round, for the prototypes."""
        with heartbeat.slow_operation("preparing"), raise_on_all(self._cluster.world):
            return ClusterModel.load(centroids_folder(self._run.clustering(index, round_index)))

    def _assignments(
        self, index, stage, round_index, projection=None, bank=None
    ) -> Assignments | None:
        """This round's clusters: read if an earlier process completed them, else computed."""
        if not stage.clustered:
            return None
        folder = self._run.clustering(index, round_index)
        # A complete folder was computed from the checkpoint at the end of the last round.
        if not all_agree(self._is_complete(stage, folder), self._cluster.world):
            self._reassign(index, stage, round_index, folder, projection, bank)
        # A process killed after the last worker had written leaves its features behind.
        atomic.remove_tree(self._run.features(self._cluster.rank))
        if self._cluster.is_chief:
            if bank:
                bank.prune(round_index)
            prune(self._run.clusterings, stage.kept_clusterings(self._experiment.keep_clusterings))
        with heartbeat.slow_operation("preparing"):
            assignments = Assignments.open(folder)
            if self._cluster.is_chief:
                self._report(index, round_index, assignments)
        return assignments

    def _is_complete(self, stage, folder):
        """Whether a clustering has all that training on it needs."""
        return is_complete(folder) and (
            not stage.has_prototypes or kept_clustering.is_complete(centroids_folder(folder))
        )

    def _reassign(self, index, stage, round_index, folder, projection, bank):
        if self.position.epoch != stage.round_of(self.position.epoch)[1] or self.position.step:
            raise DataError(
                f"{folder} has no complete clustering, but training is in the middle of the round "
                "that uses them; restore the folder, or remove the checkpoints since the round "
                "began."
            )
        self._run.remove_features_of_others(self._cluster.size)
        warm = stage.clustering.init == "previous"
        reassign.reassign(
            self._trunk,
            self._reader,
            self._experiment,
            stage,
            folder=folder,
            scratch=self._run.features(self._cluster.rank),
            cluster=self._cluster,
            seed=derive("kmeans", self._experiment.seed, index, round_index),
            previous=self._previous(index, round_index) if warm else None,
            kept=self._kept(index, stage, round_index, folder),
            projection=projection,
            bank=bank and bank.of_round(round_index, self.position.global_step),
        )

    def _kept(self, index, stage, round_index, folder):
        """KeptClustering of a round, or None if none are kept."""
        if not stage.kept_clusterings(self._experiment.keep_clusterings):
            return None
        place = {
            "stage": index,
            "stage_name": stage.name,
            "round": round_index,
            "step": self.position.global_step,
        }
        return KeptClustering(folder, self._cluster.world, place)

    def _previous(self, index, round_index) -> Assignments | None:
        """The clusters of the round before, if that was of the same stage."""
        if not round_index:
            return None
        return Assignments.open(self._run.clustering(index, round_index - 1))

    def _report(self, index, round_index, assignments):
        """Logs the metrics of a clustering, unless an earlier process has."""
        if self._metrics.has(event="clustering", stage=index, round=round_index):
            return
        metrics = reassign.describe(
            assignments, self._previous(index, round_index), self._dataset.labels()
        )
        folder = self._run.clustering(index, round_index)
        reader = RowReader(self._dataset)
        self._metrics.write_clustering(
            self.position.global_step,
            index,
            round_index,
            metrics,
            reassign.read_report(folder),
            counts=assignments.counts(),
            sheet=contact_sheet(assignments, reader),
        )
        if kept_clustering.is_complete(centroids_folder(folder)):
            model = ClusterModel.load(centroids_folder(folder))
            name = os.path.basename(folder)
            write_projector(self._run.summaries, name, model, assignments, reader)

    def _report_corrupt_rows(self):
        """Logs the number of corrupt rows found so far, if it has grown."""
        corrupt = len(corrupt_rows(self._reader, self._cluster.world))
        if corrupt > self._corrupt_rows:
            share = corrupt / self._dataset.rows
            self._metrics.write_data(
                self.position.global_step, corrupt_rows=corrupt, corrupt_share=share
            )
        self._corrupt_rows = corrupt

    def _train_round(self, index, stage, trainer, assignments, round_index, last, bank):
        """Trains from the current epoch up to `last`, the next clustering."""
        plan = self._plans[index]
        with heartbeat.slow_operation("preparing"):
            sampler = make_sampler(self._experiment, index, plan, self._dataset.rows, assignments)
        for epoch in range(trainer.position.epoch, last):
            with heartbeat.slow_operation("preparing"):
                draws = sampler.epoch(epoch, self._cluster.rank)
                start = trainer.position.step
                batches = make_batches(self._experiment, stage, self._reader, plan, draws, start)
                if bank:
                    bank.start_epoch(round_index, draws, start, trainer.position.global_step)
            trainer.train_epoch(
                batches,
                rates=epoch_rates(stage, epoch, start, sampler.steps),
                title=f"{stage.name} epoch {epoch + 1}/{stage.epochs}",
            )


def make_sampler(experiment, index: int, plan, rows: int, assignments) -> Sampler:
    """The sampler of stage `index`; `assignments` of the round, or None without clusters."""
    stage = experiment.stages[index]
    return Sampler(
        rows,
        plan,
        cluster=assignments.cluster if assignments and stage.clusters > 1 else None,
        sub=assignments.subs if assignments and stage.sub_clusters else None,
        seed=experiment.seed,
        stage=index,
        of_images=stage.sampling == "images",
    )


def make_batches(experiment, stage, reader, plan, draws, start_step=0) -> tf.data.Dataset:
    """Batches of an epoch of one worker; see `pipeline.training_batches`."""
    settings = stage.views
    views = Views(
        settings.global_views,
        settings.local_views,
        settings.local_size,
        max_area=settings.global_max_area,
        local_min_area=settings.local_min_area,
        local_max_area=settings.local_max_area,
    )
    return training_batches(
        reader,
        draws,
        plan.per_worker,
        experiment.model.resolution,
        min_area=settings.global_min_area or experiment.data.min_crop_area,
        flip=experiment.data.flip,
        start_step=start_step,
        threads=experiment.threads or None,
        photometric=Photometric(**stage.augmentation.as_dict()),
        views=views,
    )
