"""Reading by row id: any order, many threads, and what a corrupt shard says."""

import concurrent.futures
import contextlib
import gc
import os
import threading
import time
import weakref
from unittest import mock

import numpy as np
import tensorflow as tf

from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage import reader as reader_lib
from dc_tf.data.storage import schema
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import CorruptRow, RowReader, data_errors
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import DataError


def write(path, rows=20, rows_per_shard=6):
    with DatasetWriter(path, rows_per_shard=rows_per_shard) as writer:
        for row in range(rows):
            writer.write(b"%d" % row * (row + 1))
    return Dataset.open(path)


def contents(records):
    return [schema.decode_example(record)["encoded"] for record in records]


class ReaderTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "data")

    def test_records_come_in_the_order_asked_for(self):
        reader = RowReader(write(self.path))
        rows = [19, 0, 7, 7, 5, 6]
        self.assertEqual(contents(reader.read(rows)), [b"%d" % r * (r + 1) for r in rows])
        self.assertEqual(reader.read([]), [])

    def test_a_reader_behind_gfile_reads_the_same(self):
        remote = RowReader(write("ram://reader_test/data"))
        self.assertEqual(remote.read(range(20)), RowReader(write(self.path)).read(range(20)))

    def test_threads_do_not_disturb_each_other(self):
        for path in (self.path, "ram://reader_threads/data"):
            reader = RowReader(write(path, rows=200, rows_per_shard=7))
            orders = [np.random.default_rng(seed).permutation(200) for seed in range(16)]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                for rows, records in zip(orders, pool.map(reader.read, orders), strict=True):
                    self.assertEqual(contents(records), [b"%d" % r * (r + 1) for r in rows])

    def test_more_shards_than_files_kept_open_are_read(self):
        kept, reader_lib._MAX_OPEN = reader_lib._MAX_OPEN, 2
        self.addCleanup(setattr, reader_lib, "_MAX_OPEN", kept)
        reader = RowReader(write(self.path, rows=20, rows_per_shard=1))
        self.assertEqual(
            contents(reader.read([3, 9, 12, 3])), [b"3" * 4, b"9" * 10, b"12" * 13, b"3" * 4]
        )

    def test_a_reader_can_be_used_again_after_close(self):
        reader = RowReader(write(self.path))
        first = reader.read([4])
        reader.close()
        self.assertEqual(reader.read([4]), first)

    def test_a_shard_that_was_cut_short_is_named_with_the_offset(self):
        dataset = write(self.path)
        offset = dataset.index(0)[5, 0]
        os.truncate(dataset.shard_path(0), offset + 3)
        with self.assertRaisesRegex(DataError, f"shard-00000.* offset {offset} ends early"):
            RowReader(dataset).read([0, 5])

    def test_a_shard_that_was_not_indexed_is_distinguished(self):
        dataset = write(self.path)
        os.replace(dataset.shard_path(1), dataset.shard_path(0))
        with self.assertRaisesRegex(DataError, "shard-00000.*not the one that was indexed"):
            RowReader(dataset).read([0])

    def test_a_missing_shard_is_named(self):
        dataset = write(self.path)
        os.remove(dataset.shard_path(2))
        with self.assertRaisesRegex(DataError, "shard-00002.*cannot be read"):
            RowReader(dataset).read([13])

    def test_a_changed_byte_anywhere_in_a_record_is_found_by_its_checksum(self):
        for path in (self.path, "ram://reader_corrupt/data"):
            dataset = write(path)
            with tf.io.gfile.GFile(dataset.shard_path(0), "rb") as file:
                content = bytearray(file.read())
            offset, length, _ = dataset.index(0)[3].tolist()
            for place in (offset, offset + length - 1, offset + length, offset + length + 3):
                changed = bytes(content[:place]) + bytes([content[place] ^ 1])
                tf.io.gfile.remove(dataset.shard_path(0))  # ram:// would append
                with tf.io.gfile.GFile(dataset.shard_path(0), "wb") as file:
                    file.write(changed + bytes(content[place + 1 :]))
                reader = RowReader(dataset)
                with self.assertRaisesRegex(CorruptRow, f"offset {offset} is corrupt"):
                    reader.read([3])
                self.assertLen(reader.read([2, 4]), 2)

    def test_an_index_that_points_outside_is_reported_and_nothing_huge_is_read(self):
        for change in ([0, 0, 1 << 60], [0, 1 << 60, 5], [3, -(1 << 40), 0], [0, 12, -20]):
            dataset = write(self.path)
            index = np.array(dataset.index(0))
            row, index[change[0], 0], index[change[0], 1] = change
            np.save(dataset.index_path(0), index)
            with self.assertRaisesRegex(CorruptRow, "shard-00000.*index is corrupt"):
                RowReader(Dataset.open(self.path)).read([row])
            tf.io.gfile.rmtree(self.path)

    def test_examples_are_decoded_with_the_names_of_the_data_set(self):
        reader = RowReader(write(self.path))
        self.assertEqual(reader.examples([3])[0]["encoded"], b"3333")
        reader.dataset.features = schema.Features(image="img")
        with self.assertRaisesRegex(CorruptRow, "row 3.*shard-00000.*has no img"):
            reader.examples([3])

    def test_the_errors_of_a_pipeline_are_data_errors_again(self):
        reader = RowReader(write(self.path))
        batches = tf.data.Dataset.range(40).map(
            lambda row: tf.numpy_function(lambda row: reader.read([row])[0], [row], tf.string)
        )
        with self.assertRaisesRegex(DataError, "^row 20 is not in"), data_errors():
            list(batches)


class RemoteTest(tf.test.TestCase):
    """Shards that are read through `tf.io.gfile`, from a source that takes its time."""

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "data")

    def remote(self, dataset):
        """A reader of local shards that takes them for remote ones."""
        with mock.patch.object(reader_lib, "is_local", lambda path: False):
            return RowReader(dataset)

    def test_many_records_are_read_at_once_and_come_in_order(self):
        dataset, rows = write(self.path, rows=100), np.random.default_rng(0).permutation(100)
        remote = self.remote(dataset)
        with slow_files() as source:
            self.assertEqual(remote.read(rows), RowReader(dataset).read(rows))
        self.assertGreater(source.most_reads, 8)
        self.assertLessEqual(source.most_reads, reader_lib._REMOTE_READS)

    def test_files_kept_open_are_bounded_and_used_again(self):
        dataset = write(self.path, rows=60, rows_per_shard=1)
        remote = self.remote(dataset)
        limits = {"_REMOTE_READS": 4, "_MAX_REMOTE_IDLE": 8}
        with mock.patch.multiple(reader_lib, **limits), slow_files(seconds=0.001) as source:
            for _ in range(3):
                remote.read(range(60))
            self.assertLessEqual(source.most_open, 12)
            self.assertLen(source.open, 8)
            remote.read(range(52, 60))
            opened = source.opened
            for _ in range(3):
                remote.read(range(52, 60))
            self.assertEqual(source.opened, opened)

    def test_a_batch_in_which_a_record_is_corrupt_fails_as_a_local_one(self):
        dataset = write(self.path, rows=40)
        for row in (17, 23):
            corrupt(dataset, row)
        for reader in (RowReader(dataset), self.remote(dataset)):
            offset = dataset.index(2)[17 % 6, 0]
            with (
                slow_files(seconds=0.001),
                self.assertRaisesRegex(CorruptRow, f"shard-00002.* at offset {offset} is corrupt"),
            ):
                reader.read(range(40))
            records = reader.read(range(40), corrupt=b"")
            self.assertEqual([row for row in range(40) if not records[row]], [17, 23])
            self.assertEqual(reader.read([16, 18]), [records[16], records[18]])

    def test_a_batch_with_corrupt_records_is_still_read_many_at_once(self):
        dataset = pictures(self.path, rows=60)
        for row in (0, 30):
            corrupt(dataset, row)
        batches = {}
        for name, reader in (
            ("local", FallbackRows(RowReader(dataset), 0.1)),
            ("remote", FallbackRows(self.remote(dataset), 0.1)),
        ):
            with slow_files() as source, data_errors():
                (batches[name],) = evaluation_batches(reader, np.arange(60), 60, 8, 8)
            self.assertAllEqual(reader.rows(), [0, 30])
        self.assertAllEqual(batches["remote"]["image"], batches["local"]["image"])
        # One by one it is 65: up to the damage, each row, and what stands in for two.
        self.assertLess(source.turns, 30)

    def test_too_many_corrupt_records_are_reported_by_a_pipeline(self):
        dataset = pictures(self.path, rows=20)
        corrupt(dataset, 7)
        offset = dataset.index(1)[1, 0]
        batches = evaluation_batches(self.remote(dataset), np.arange(20), 8, 8, 8)
        with self.assertRaisesRegex(DataError, f"shard-00001.*offset {offset} is"), data_errors():
            list(batches)

    def test_a_shard_that_was_cut_short_or_is_gone_is_named(self):
        dataset = write(self.path)
        offsets = dataset.index(0)[:, 0]
        os.truncate(dataset.shard_path(0), offsets[3] + 3)
        os.remove(dataset.shard_path(2))
        remote = self.remote(dataset)
        with self.assertRaisesRegex(CorruptRow, f"shard-00000.* offset {offsets[3]} ends early"):
            remote.read(range(20))
        for reader in (remote, RowReader(dataset)):  # where the shard has ended before
            with self.assertRaisesRegex(CorruptRow, f"shard-00000.* offset {offsets[5]} ends"):
                reader.read([5])
            self.assertEqual(reader.read(range(3, 6), corrupt=b"none"), [b"none"] * 3)
            self.assertEqual(contents(reader.read([2])), [b"222"])
        with self.assertRaisesRegex(DataError, "shard-00002.*cannot be read"):
            remote.read(range(6, 20))
        self.assertLen(remote.read(range(6, 12)), 6)

    def test_threads_and_files_end_when_the_reader_is_closed_and_when_it_goes(self):
        dataset = write(self.path)
        remote, expected = self.remote(dataset), RowReader(dataset).read(range(20))
        with slow_files(seconds=0.001) as source:
            self.assertEqual(remote.read(range(20)), expected)
            remote.close()
            self.check_ended(source)
            self.assertEqual(remote.read(range(20)), expected)
            del remote
            gc.collect()
            self.check_ended(source)

    def test_local_shards_need_no_threads(self):
        with mock.patch.object(concurrent.futures, "ThreadPoolExecutor") as pool:
            RowReader(write(self.path)).read(range(20))
            pool.assert_not_called()

    def check_ended(self, source):
        self.assertNotEmpty(source.threads)
        for thread in source.threads:
            thread.join(10)
            self.assertFalse(thread.is_alive())
        self.assertEmpty(source.open)

    def test_a_fork_reads_with_threads_of_its_own(self):
        dataset = write(self.path)
        remote, expected = self.remote(dataset), RowReader(dataset).read(range(20))
        self.assertEqual(remote.read(range(20)), expected)
        with remote._files._lock:  # as another thread may just then
            child = os.fork()
        if not child:
            os._exit(7 if remote.read(range(20)) == expected else 1)
        self.assertEqual(exit_code(child), 7)
        self.assertEqual(remote.read(range(20)), expected)


class Source:
    """What a slow remote saw.

    Attributes:
        open: the files that are open just now; `most_open`, `opened`: at once, and in all.
        most_reads: reads at once.
        turns: how often a read began while no other was in progress.
        threads: set of those that read.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self.open, self.opened, self.most_open = weakref.WeakSet(), 0, 0
        self.reads = self.most_reads = self.turns = 0
        self.threads = set()
        self._lock = threading.Lock()

    def add(self, file):
        with self._lock:
            self.open.add(file)
            self.opened += 1
            self.most_open = max(self.most_open, len(self.open))

    @contextlib.contextmanager
    def reading(self):
        with self._lock:
            self.threads.add(threading.current_thread())
            self.turns += not self.reads
            self.reads += 1
            self.most_reads = max(self.most_reads, self.reads)
        time.sleep(self.seconds)
        yield
        with self._lock:
            self.reads -= 1


@contextlib.contextmanager
def slow_files(seconds=0.02):
    """Lets each read through `tf.io.gfile` take that long; gives a Source."""
    source = Source(seconds)

    class SlowFile(tf.io.gfile.GFile):
        def __init__(self, *args):
            super().__init__(*args)
            source.add(self)

        def read(self, n=-1):
            with source.reading():
                return super().read(n)

    with mock.patch.object(tf.io.gfile, "GFile", SlowFile):
        yield source


def pictures(path, rows):
    with DatasetWriter(path, rows_per_shard=6) as writer:
        for row in range(rows):
            writer.write(tf.io.encode_png(np.full((8, 8, 3), row, np.uint8)).numpy())
    return Dataset.open(path)


def corrupt(dataset, row):
    """Changes a byte of a record."""
    (shard,), ((offset, *_),) = dataset.locate([row])
    with open(dataset.shard_path(shard), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def exit_code(child, limit_s=60):
    """Of a forked process; None, and its end, if that takes too long."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    tf.test.main()
