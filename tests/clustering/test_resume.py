"""Saved clusterings: complete or absent, and all workers resume from the same one."""

import os
import pathlib
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering import resume
from dc_tf.clustering.kmeans import KMeansState
from dc_tf.clustering.resume import Snapshot, Snapshots, pack_state, unpack_state
from dc_tf.distributed.collectives import Solo


def snapshot(number):
    return Snapshot({"number": number}, {"labels": np.full(1000, number, np.int32)})


def number_of(found):
    return found and found.about["number"]


def save_and_resume(comm, folder, held):
    """Each worker saves what it holds, for itself; the number all resume from, and what is left."""
    own = os.path.join(folder, str(comm.rank))
    for number in held[comm.rank]:
        Snapshots(own, Solo()).save(number, snapshot(number))
    found = Snapshots(own, comm).newest()
    return number_of(found), sorted(os.listdir(own)) if os.path.exists(own) else []


def save_when_due(comm, folder, due):
    """`due` says for each worker whether its own clock calls for a save."""
    own = os.path.join(folder, str(comm.rank))
    snapshots = Snapshots(own, comm, every_s=0 if due[comm.rank] else 1e9)
    snapshots.save_if_due(1, lambda: snapshot(1))
    return os.path.exists(own)


class SnapshotsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "kmeans")

    def saved(self, *numbers):
        snapshots = Snapshots(self.folder, Solo())
        for number in numbers:
            snapshots.save(number, snapshot(number))
        return sorted(pathlib.Path(self.folder).iterdir())

    def newest(self):
        return number_of(Snapshots(self.folder, Solo()).newest())

    def test_the_newest_is_found_and_two_are_kept(self):
        self.assertIsNone(self.newest())
        self.assertLen(self.saved(8, 9, 10, 11), 2)
        found = Snapshots(self.folder, Solo()).newest()
        self.assertEqual(found.about, {"number": 11})
        self.assertAllEqual(found.arrays["labels"], np.full(1000, 11))

    def test_a_file_cut_short_or_changed_gives_way_to_the_one_before(self):
        for damage in (lambda data: data[:-200], lambda data: b"", _flipped):
            *_, newest = self.saved(1, 2)
            newest.write_bytes(damage(newest.read_bytes()))
            self.assertEqual(self.newest(), 1)
            self.assertFalse(newest.exists())

    def test_with_both_corrupt_the_work_begins_anew(self):
        for path in self.saved(1, 2):
            path.write_bytes(path.read_bytes()[:100])
        self.assertIsNone(self.newest())
        self.assertEmpty(os.listdir(self.folder))

    def test_a_write_that_was_killed_leaves_the_one_before(self):
        self.saved(1)
        with mock.patch.object(resume.os, "fsync", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                self.saved(2)
        self.assertEqual(self.newest(), 1)

    def test_a_kill_between_a_write_and_the_removal_of_the_oldest_leaves_the_newest(self):
        self.saved(1, 2)
        with mock.patch.object(resume.os, "remove", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                self.saved(3)
        self.assertLen(os.listdir(self.folder), 3)
        self.assertEqual(self.newest(), 3)
        self.assertLen(self.saved(4), 2)
        self.assertEqual(self.newest(), 4)

    def test_a_disk_that_cannot_be_written_costs_the_snapshot_only(self):
        self.saved(1)
        with mock.patch.object(resume.os, "fsync", side_effect=OSError(28, "no space left")):
            with self.assertLogs(level="WARNING") as logs:
                self.saved(2)
        self.assertIn("no space left", logs.output[0])
        self.assertEqual(os.listdir(self.folder), ["0000000001.npz"])

    def test_workers_resume_from_the_newest_that_all_have_and_drop_what_is_newer(self):
        # A kill came when worker 0 had written 7 and worker 1 had not.
        results = workers.on_workers(2, save_and_resume, self.folder, [[6, 7], [5, 6]])
        self.assertEqual(results[0], (6, ["0000000006.npz"]))
        self.assertEqual(results[1], (6, ["0000000005.npz", "0000000006.npz"]))

    def test_without_one_that_all_have_every_worker_begins_anew(self):
        # Old numbers must not be mistaken for those of the work that begins now.
        for held in ([[6, 7], []], [[6, 7], [4, 5]]):
            results = workers.on_workers(2, save_and_resume, self.folder, held)
            self.assertEqual(results, [(None, []), (None, [])])

    def test_the_first_workers_clock_decides_for_all(self):
        for due, saved in (([True, False], True), ([False, True], False)):
            folder = tempfile.mkdtemp(dir=self.get_temp_dir())
            self.assertEqual(workers.on_workers(2, save_when_due, folder, due), [saved, saved])

    def test_saves_wait_for_their_time_and_longer_where_they_are_slow(self):
        clock = [0.0]

        def slow(*_):
            clock[0] += 10

        with (
            mock.patch.object(resume.time, "monotonic", lambda: clock[0]),
            mock.patch.object(resume, "write_file", slow),
        ):
            snapshots = Snapshots(self.folder, Solo(), every_s=60)
            saves = []
            for second in range(0, 600, 30):
                clock[0] = second
                snapshots.save_if_due(second, lambda: saves.append(second))  # noqa: B023
        self.assertEqual(saves, [60, 270, 480])  # saving takes 10 of every 200 seconds

    def test_a_kmeans_state_comes_back_bit_for_bit(self):
        rng = np.random.default_rng(0)
        state = KMeansState(
            iteration=3,
            centroids=rng.normal(size=(5, 4)).astype(np.float32),
            used=np.array([True, True, False, True, True]),
            objective=(1 / 3, 0.1, 1e-300),
            reseeded=2,
            exchanged_bytes=80,
            labels=np.arange(7, dtype=np.int32),
        )
        first = KMeansState(0, state.centroids, state.used)
        for generation, before in enumerate((first, state)):
            snapshots = Snapshots(self.folder, Solo())
            snapshots.save(generation, pack_state(before))
            after = unpack_state(snapshots.newest())
            self.assertEqual(after.objective, before.objective)
            for name in ("iteration", "reseeded", "exchanged_bytes"):
                self.assertEqual(getattr(after, name), getattr(before, name), name)
            for name in ("centroids", "used"):
                ours, theirs = getattr(after, name), getattr(before, name)
                self.assertEqual((ours.dtype, ours.tobytes()), (theirs.dtype, theirs.tobytes()))
        self.assertIsNone(unpack_state(pack_state(first)).labels)
        self.assertAllEqual(after.labels, state.labels)


def _flipped(data):
    """The file with one label changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


if __name__ == "__main__":
    tf.test.main()
