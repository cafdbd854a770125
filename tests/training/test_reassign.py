"""Reassignment: killed in any phase and started again, it ends with the same clusters."""

import contextlib
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import tempfile
import types
from unittest import mock

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.clustering import assignments
from dc_tf.clustering.assignments import Assignments
from dc_tf.clustering.cluster_model import load_clustering
from dc_tf.clustering.kept_clustering import KeptClustering
from dc_tf.clustering.resume import Snapshots
from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.collectives import Solo
from dc_tf.experiment import Clustering, Stage, load
from dc_tf.run_dir import RunDir
from dc_tf.training import reassign
from dc_tf.training.checkpoint import new_trunk
from dc_tf.training.features import extract

IMAGES, BATCH = 96, 32
CLUSTERING = {"iterations": 3, "whitening_dim": 8, "batch_size": BATCH, "save_every_s": 0}
LIMIT_S = 240
PLACE = {"stage": 0, "stage_name": "deepercluster", "round": 0, "step": 0}


@pytest.mark.slow
class ReassignTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = runs.make_data(cls.folder, IMAGES)
        cls.run_to_end("undisturbed")

    @classmethod
    def run_to_end(cls, name, **changes):
        """What is left of a reassignment, in a process of its own."""
        code = in_process(live_alone, cls.data, os.path.join(cls.folder, name), **changes)
        assert code == 0, f"a process that was to end by itself ended with {code}"

    def kill(self, name, event, **changes):
        """The same, killed at an event; see `Events`."""
        folder = os.path.join(self.folder, name)
        code = in_process(live_alone, self.data, folder, event, **changes)
        self.assertEqual(code, -signal.SIGKILL, f"{event} was not met")

    def events(self, name, rank=0):
        """The events of all incarnations of a reassignment."""
        lines = pathlib.Path(self.folder, name, f"events-{rank}").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]

    def assert_same_clusters(self, name, other):
        folders = [os.path.join(self.folder, n, "clusters") for n in (name, other)]
        ours, expected = map(Assignments.open, folders)
        self.assertAllEqual(ours.cluster, expected.cluster)
        self.assertAllEqual(ours.sub, expected.sub)
        # Sums of squared distances that agree to the last bit are those of the same centroids.
        ours, expected = map(reassign.read_report, folders)
        for level in ("level1", "level2"):
            self.assertEqual(ours[level], expected[level])

    def test_killed_in_each_phase_it_resumes_there_and_ends_with_the_same_clusters(self):
        for event in KILLS:
            self.kill("killed", event)
        self.run_to_end("killed")
        self.assert_same_clusters("killed", "undisturbed")
        # What was interrupted is done again, and nothing else is.
        events, whole = self.events("killed"), self.events("undisturbed")
        self.assertCountEqual(events, whole + AGAIN + KILLS)
        first = list(dict.fromkeys(events))
        self.assertEqual([event for event in first if event not in AGAIN], whole)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "killed", "scratch-0")))

    def test_moments_of_rows_as_they_come_are_those_of_the_rows_on_disk(self):
        for kills in ([("whiten", 0)], [("extract", 64), ("whiten", 0)]):
            name = f"moments-{len(kills)}"
            for event in kills:
                self.kill(name, event)
            scratch = os.path.join(self.folder, name, "scratch-0")
            store = FeatureStore.open(os.path.join(scratch, "raw"))
            self.assertEqual(store.dtype, np.float16)
            kept = Whitening.load(os.path.join(scratch, "whitening.npz"))
            self.assertEqual(kept.name, Whitening.fit(Moments.of(store), Solo(), 8).name)

    def test_killed_while_rows_are_whitened_in_place_it_ends_with_the_same_clusters(self):
        self.kill("in-place", ("whiten", 0), whitening_dim=16)
        self.run_to_end("in-place", whitening_dim=16)
        self.run_to_end("in-place-whole", whitening_dim=16)
        self.assert_same_clusters("in-place", "in-place-whole")

    def test_scratch_of_another_round_or_of_other_weights_is_not_used(self):
        self.kill("stale", ("level 2", 1, 1), seed=5)
        self.kill("stale", ("level 2", 1, 1), weights=1)
        before = len(self.events("stale"))
        self.run_to_end("stale")
        self.assertEqual(self.events("stale")[before:], self.events("undisturbed"))
        self.assert_same_clusters("stale", "undisturbed")

    def test_the_cache_may_change_in_a_clustering_and_leaves_no_trace(self):
        self.kill("cached", ("level 1", 0, 2), cache_gb=0)
        self.kill("cached", ("level 2", 1, 1), cache_gb=1)
        self.run_to_end("cached", cache_gb=0)
        self.assert_same_clusters("cached", "undisturbed")
        interrupted = [("level 1", 0, 2), ("level 2", 1, 1)]
        whole = self.events("undisturbed")
        self.assertCountEqual(self.events("cached"), whole + interrupted)

    def test_a_round_can_start_from_the_clusters_of_the_last(self):
        before = os.path.join(self.folder, "undisturbed", "clusters")
        self.run_to_end("warm", init="previous", previous=before)
        reports = [
            reassign.read_report(os.path.join(self.folder, name, "clusters"))["level1"]
            for name in ("warm", "undisturbed")
        ]
        warm, cold = (report["objective"] for report in reports)
        self.assertLess(warm[0], cold[-1])  # of the same features: the old means, moved once more

    def test_the_features_that_were_clustered_are_assigned_as_in_the_run(self):
        for size in (1, 2):
            run = RunDir(os.path.join(self.folder, f"kept-{size}"))
            parts = workers.on_cluster(size, live_and_return_features, self.data, run.path)
            expected = Assignments.open(run.clustering(0, 0))
            model = load_clustering(run)
            found = model.assign(np.concatenate(parts))
            different = (found.cluster != expected.cluster) | (found.sub != expected.sub)
            self.assertLessEqual(np.count_nonzero(different), 1)
            self.assertTrue((found.ratio[different] > 0.999).all())
            counts = np.bincount(expected.flat(), minlength=8).reshape(2, 4)
            self.assertAllEqual(model.counts, counts)

    @pytest.mark.extended
    def test_a_clustering_that_was_killed_keeps_the_same_centroids(self):
        run, whole = (RunDir(os.path.join(self.folder, n)) for n in ("kept-killed", "kept-whole"))
        for event in (("level 2", 1, 1), ("write", 0)):
            self.kill("kept-killed", event, clusters=run.clustering(0, 0))
        self.run_to_end("kept-killed", clusters=run.clustering(0, 0))
        self.run_to_end("kept-whole", clusters=whole.clustering(0, 0))
        ours, expected = load_clustering(run), load_clustering(whole)
        self.assertAllEqual(ours.super_centroids, expected.super_centroids)
        self.assertAllEqual(ours.sub_centroids, expected.sub_centroids)
        self.assertAllEqual(ours.whitening.basis, expected.whitening.basis)
        self.assertEqual(ours.description["network"], expected.description["network"])

    def test_a_worker_killed_while_saving_costs_both_that_iteration(self):
        folder, whole = (os.path.join(self.folder, name) for name in ("two", "two-whole"))
        with self.assertRaisesRegex(AssertionError, "the process ended with code -9"):
            workers.on_cluster(2, live_until_one_is_ahead, self.data, folder)
        held = [os.listdir(os.path.join(folder, f"scratch-{rank}", "kmeans")) for rank in (0, 1)]
        self.assertNotEqual(max(held[0]), max(held[1]))
        before = [len(self.events("two", rank)) for rank in (0, 1)]
        workers.on_cluster(2, live, self.data, folder)
        for rank in (0, 1):
            self.assertEqual(self.events("two", rank)[before[rank]], ("level 2", 0, 1))
        workers.on_cluster(2, live, self.data, whole)
        self.assert_same_clusters("two", "two-whole")


class PhasesTest(tf.test.TestCase):
    """Parts of a reassignment, in this process."""

    def test_a_worker_that_lost_the_whitening_gets_that_of_another(self):
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "whitening-")
        kept = Whitening(np.arange(4, dtype=np.float32), np.ones((4, 2), np.float32))
        self.assertEqual(workers.on_workers(2, broadcast_whitening, path), [None, None])
        pathlib.Path(f"{path}0").write_bytes(b"PK corrupt")
        kept.save(f"{path}1")
        for mean, basis in workers.on_workers(2, broadcast_whitening, path):
            self.assertAllEqual(mean, kept.mean)
            self.assertAllEqual(basis, kept.basis)

    def test_rows_beyond_the_cache_are_read_in_every_pass(self):
        x = np.random.default_rng(0).normal(size=(500, 6))
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        store = FeatureStore.create(os.path.join(folder, "rows"), *x.shape)
        store.write(0, x)
        alone = types.SimpleNamespace(world=Solo(), is_chief=False)
        results, reads = [], []
        for cache_gb in (1e-4, 0.0):
            settings = Clustering(iterations=3, cache_gb=cache_gb)
            stage = Stage(clusters=4, sub_clusters=0, clustering=settings)
            with mock.patch.object(store, "read", wraps=store.read) as read:
                scratch = os.path.join(folder, f"{cache_gb}")
                results.append(reassign._cluster(store, stage, scratch, alone, 0, None))
            reads.append(read.call_count)
        kept, again = results
        self.assertEqual(kept.cluster.tobytes(), again.cluster.tobytes())
        self.assertEqual(kept.report, again.report)
        self.assertEqual(reads[1] - reads[0], 3)  # all passes but the first of four

    def test_progress_has_a_line_for_each_level_and_knows_what_was_done_before(self):
        err = io.StringIO()
        levels = reassign._LevelProgress(3, 20, 10, {1: 1, 2: 4}, True)
        with contextlib.redirect_stderr(err), levels as progress:
            progress.update(30, level=1, skipped=True, cluster=0, iteration=3)
            progress.update(10, level=1, skipped=False, cluster=0, iteration=3, objective=2.5)
            progress.update(40, level=2, skipped=False, cluster=1, iteration=0, objective=None)
        lines = err.getvalue().splitlines()
        self.assertLen(lines, 5)
        self.assertEqual(lines[1], "cluster, level 1: resumes at iteration 3/3, 20 rows")
        self.assertRegex(
            lines[2], r"level 1: iteration 3/3, 20 rows, done .* rows/s, objective 2.5"
        )
        self.assertRegex(lines[4], r"level 2: cluster 2/4, iteration 0/3, 20 rows, done")


def in_process(function, *args, **settings):
    """The exit code of a process that runs a function; a fork of one that has loaded TensorFlow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dc_tf.training.loop"])
    process = context.Process(target=function, args=args, kwargs=settings)
    process.start()
    process.join(LIMIT_S)
    process.kill()
    process.join()
    return process.exitcode


# One of each kind of event; batches begin at rows 0, 32 and 64.
KILLS = [
    ("extract", 32),
    ("moments", 32),  # of what is on disk, to resume from there
    ("extract", 64),
    ("fit", 0),
    ("moments", IMAGES),  # of all rows, since those taken as they came are lost
    ("whiten", 0),
    ("level 1", 0, 2),
    ("level 1", 0, 3),  # the last pass: what comes next is the other level
    ("level 2", 0, 0),
    ("level 2", 1, 1),
    ("write", 0),
]
# What only a process does that resumes from rows of an earlier one.
AGAIN = [("moments", 32), ("moments", 64), ("moments", IMAGES)]


def live(
    cluster,
    data,
    folder,
    kill_at=None,
    seed=0,
    weights=0,
    previous=None,
    clusters=None,
    **changes,
):
    """Runs a reassignment, or what is left of it; events, clusters and scratch are in `folder`.

    Args:
        kill_at: event at which the process kills itself; see `Events`.
        seed: of the clustering.
        weights: seed of the trunk.
        previous: folder of the last round's clusters.
        clusters: folder of a round of a run, to keep the centroids as well.
        changes: settings of the clustering.
    """
    stage = {**runs.SETTINGS["stages"][1], "clustering": {**CLUSTERING, **changes}}
    settings = runs.settings(data, stages=[stage], seed=weights)
    experiment = load(params_override=[repr(settings)])
    with cluster.strategy.scope():
        trunk = new_trunk(experiment).built_at_resolution()
    os.makedirs(folder, exist_ok=True)
    events = Events(os.path.join(folder, f"events-{cluster.rank}"), kill_at)
    with events.recorded():
        reassign.reassign(
            trunk,
            RowReader(Dataset.open(data)),
            experiment,
            experiment.stages[0],
            folder=clusters or os.path.join(folder, "clusters"),
            scratch=os.path.join(folder, f"scratch-{cluster.rank}"),
            cluster=cluster,
            seed=seed,
            previous=previous and Assignments.open(previous),
            kept=clusters and KeptClustering(clusters, cluster.world, PLACE),
        )


def live_and_return_features(cluster, data, workdir):
    """Keeps round 0 of stage 0 of a run; returns this worker's features before whitening."""
    features, whiten = [], reassign.whiten

    def keeping(store, *args):
        features.append(np.array(store.read(0, store.rows)))
        return whiten(store, *args)

    with mock.patch.object(reassign, "whiten", keeping):
        live(cluster, data, workdir, clusters=RunDir(workdir).clustering(0, 0))
    return features[0]


def live_until_one_is_ahead(cluster, data, folder):
    """Worker 1 is killed when it is to save an iteration that worker 0 has saved already."""
    ahead = os.path.join(folder, "scratch-0", "kmeans")
    save = Snapshots.save

    def save_or_die(self, generation, snapshot):
        if cluster.rank == 1 and snapshot.about["done"] == 1 and snapshot.about["state"]:
            if snapshot.about["state"]["iteration"] == 2:
                while f"{generation:010d}.npz" not in os.listdir(ahead):
                    pass
                os.kill(os.getpid(), signal.SIGKILL)
        save(self, generation, snapshot)

    with mock.patch.object(Snapshots, "save", save_or_die):
        live(cluster, data, folder)


def live_alone(*args, **settings):
    """`live` on the one worker of this process."""
    live(connect(), *args, **settings)


class Events:
    """Writes down what a reassignment does, one event a line, and kills it at one of them.

    Args:
        path: of the file, which earlier incarnations may have begun.
        kill_at: event at which the process kills itself, before what the event is about is kept.
    """

    def __init__(self, path, kill_at):
        self._path = path
        self._kill_at = kill_at and list(kill_at)

    def add(self, *event):
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        if list(event) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def recorded(self):
        """A context in which the phases of a reassignment write down their events."""
        stack = contextlib.ExitStack()
        for owner, name, event in (
            (Moments, "of", self._moments),
            (Whitening, "fit", lambda *_: self.add("fit", 0)),
            (Whitening, "apply", lambda *_: self.add("whiten", 0)),
            (assignments, "commit", lambda *_: self.add("write", 0)),
            (reassign._LevelProgress, "update", self._pass),
        ):
            stack.enter_context(mock.patch.object(owner, name, _after(event, owner, name)))
        stack.enter_context(mock.patch.object(extract, "evaluation_batches", self._batches))
        return stack

    def _moments(self, points, rows=None):
        count = points.rows if rows is None else rows
        if count:
            self.add("moments", count)

    def _batches(self, reader, rows, size, *args, **settings):
        for index, batch in enumerate(evaluation_batches(reader, rows, size, *args, **settings)):
            self.add("extract", rows.start + index * size)
            yield batch

    def _pass(self, _, rows, level, skipped, **values):
        if not skipped:
            self.add(f"level {level}", values["cluster"], values["iteration"])


def _after(event, owner, name):
    """The function of that name, which calls `event` first."""
    function = getattr(owner, name)

    def after_event(*args, **settings):
        event(*args, **settings)
        return function(*args, **settings)

    return after_event


def broadcast_whitening(comm, path):
    kept = extract._kept_whitening(f"{path}{comm.rank}")
    found = extract._broadcast_whitening(kept, (4, 2), comm)
    return found and (found.mean, found.basis)


if __name__ == "__main__":
    tf.test.main()
