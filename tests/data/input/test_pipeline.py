"""Batches by row id: order, resume, labels, and images that cannot be decoded."""

import io
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dc_tf.data.input import augment
from dc_tf.data.input.draws import Draws
from dc_tf.data.input.photometric import Photometric
from dc_tf.data.input.pipeline import evaluation_batches, training_batches
from dc_tf.data.input.views import Views
from dc_tf.data.storage import schema
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader, data_errors
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError, DataError

ROWS = 23


def picture(row):
    pixels = np.random.default_rng(row).integers(0, 256, (20 + row, 31, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG" if row % 3 == 0 else "JPEG")
    return out.getvalue()


def draws(n, seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    return Draws(
        row=rng.integers(0, rows, n),
        rotation=rng.integers(0, 4, n).astype(np.int32),
        super_id=rng.integers(0, 8, n).astype(np.int32),
        sub_id=rng.integers(0, 99, n).astype(np.int32),
        seed=rng.integers(0, 2**31 - 1, (n, 2)).astype(np.int32),
    )


class PipelineTest(tf.test.TestCase):
    def make(self, broken=()):
        path = os.path.join(self.get_temp_dir(), f"data{len(broken)}")
        with DatasetWriter(path, rows_per_shard=10, overwrite=True) as writer:
            for row in range(ROWS):
                encoded = picture(row)[:200] if row in broken else picture(row)
                writer.write(encoded, label=row % 5 if row else None)
        return RowReader(Dataset.open(path))

    def test_each_image_is_cropped_flipped_and_then_rotated(self):
        reader, wanted = self.make(), draws(9)
        (batch,) = training_batches(reader, wanted, batch_size=9, size=16)
        for place in range(9):
            image = augment.random_resized_crop(
                picture(wanted.row[place]), 16, wanted.seed[place]
            ).numpy()
            self.assertAllClose(batch["image"][place], np.rot90(image, wanted.rotation[place]))
        self.assertAllEqual(batch["super_id"], wanted.super_id)
        self.assertAllEqual(batch["sub_id"], wanted.sub_id)
        self.assertEqual(set(batch), {"image", "super_id", "sub_id"})

    def test_batches_are_full_and_the_same_for_any_number_of_threads(self):
        reader, wanted = self.make(), draws(50)
        alone = list(training_batches(reader, wanted, 8, 16, threads=1))
        self.assertLen(alone, 6)
        for threads in (3, None):
            batches = training_batches(reader, wanted, 8, 16, threads=threads)
            self.assertEqual(batches.element_spec["image"].shape, [8, 16, 16, 3])
            for one, other in zip(alone, batches, strict=True):
                self.assertAllEqual(one["image"], other["image"])
                self.assertAllEqual(one["sub_id"], other["sub_id"])

    @pytest.mark.extended
    def test_changed_colours_and_views_are_the_same_for_any_threads_and_after_a_resume(self):
        reader, wanted = self.make(), draws(50)
        options = dict(photometric=Photometric(1.0, 0.2, 0.5, 0.2), views=Views(2, 3, 24))
        whole = list(training_batches(reader, wanted, 8, 40, threads=1, **options))
        self.assertEqual(whole[0]["image"].shape, [8, 2, 40, 40, 3])
        self.assertEqual(whole[0]["local_image"].shape, [8, 3, 24, 24, 3])
        for start, threads in ((0, 3), (0, None), (4, None)):
            rest = training_batches(
                reader, wanted, 8, 40, start_step=start, threads=threads, **options
            )
            for one, other in zip(whole[start:], rest, strict=True):
                for name, tensor in one.items():
                    self.assertAllEqual(tensor, other[name])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_corrupt_row_is_replaced_in_all_views(self):
        reader = FallbackRows(RowReader(self.make(broken=[3]).dataset), 0.2)
        wanted = draws(2)._replace(row=np.array([3, 4]))
        wanted = wanted._replace(seed=wanted.seed[[0, 0]], rotation=wanted.rotation[[0, 0]])
        (batch,) = training_batches(reader, wanted, 2, 32, views=Views(2, 2, 24))
        for name in ("image", "local_image"):
            self.assertAllEqual(batch[name][0], batch[name][1])

    def test_no_thread_tunes_it(self):
        # Waiting for that thread's end held all workers up, by up to a minute an epoch.
        reader = self.make()
        training = training_batches(reader, draws(8), 8, 16)
        for batches in (training, evaluation_batches(reader, [0], 2, size=16, short_side=18)):
            self.assertIs(batches.options().autotune.enabled, False)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_resumed_epoch_begins_where_it_stopped(self):
        reader, wanted = self.make(), draws(50)
        whole = list(training_batches(reader, wanted, 8, 16))
        rest = list(training_batches(reader, wanted, 8, 16, start_step=4))
        self.assertLen(rest, 2)
        for one, other in zip(whole[4:], rest, strict=True):
            self.assertAllEqual(one["image"], other["image"])
        self.assertEmpty(list(training_batches(reader, wanted, 8, 16, start_step=6)))

    def test_skipped_steps_are_not_even_read(self):
        reader, asked = self.make(), []
        read = reader.read
        reader.read = lambda rows: asked.extend(rows) or read(rows)
        list(training_batches(reader, draws(50), 8, 16, start_step=5))
        self.assertAllEqual(asked, draws(50).row[40:48])

    def test_evaluation_gives_every_row_once_with_its_label(self):
        reader, rows = self.make(), [3, 0, 22, 9, 10]
        batches = list(evaluation_batches(reader, rows, 2, size=16, short_side=18))
        self.assertEqual([len(batch["row"]) for batch in batches], [2, 2, 1])
        self.assertAllEqual(np.concatenate([batch["row"] for batch in batches]), rows)
        labels = np.concatenate([batch["label"] for batch in batches])
        self.assertAllEqual(labels, [3, -1, 2, 4, 0])
        self.assertEqual(labels.dtype, np.int32)
        self.assertAllClose(batches[1]["image"][0], augment.center_crop(picture(22), 16, 18))
        self.assertEmpty(list(evaluation_batches(reader, [], 2, 16, 16)))

    @pytest.mark.merge
    @pytest.mark.slow
    def test_an_image_that_cannot_be_decoded_is_named_wherever_it_is(self):
        for row, threads in ((0, None), (7, 1), (13, None), (22, 1)):
            reader = self.make(broken=[row])
            offset = reader.dataset.locate([row])[1][0, 0]
            named = f"row {row} .*shard-0000{row // 10}.*offset {offset}.*cannot be decoded"
            order = np.arange(ROWS)
            epoch = draws(ROWS)._replace(row=order)
            with self.assertRaisesRegex(DataError, named), data_errors():
                list(training_batches(reader, epoch, 1, 16, threads=threads))
            with self.assertRaisesRegex(DataError, named), data_errors():
                list(evaluation_batches(reader, order, 4, 16, 16, threads=threads))

    def test_batches_before_a_bad_image_arrive_whole(self):
        arrived = []
        with self.assertRaises(DataError), data_errors():
            for batch in evaluation_batches(self.make(broken=[13]), np.arange(ROWS), 4, 16, 16):
                arrived.extend(batch["row"].numpy())
        self.assertEqual(arrived, list(range(12)))

    def test_a_corrupt_shard_is_named(self):
        reader = self.make()
        os.truncate(reader.dataset.shard_path(2), 10)
        for batch_size in (1, 4, 7, ROWS):
            with self.assertRaisesRegex(DataError, "shard-00002.*ends early"), data_errors():
                list(evaluation_batches(reader, np.arange(ROWS), batch_size, 16, 16))

    def test_corrupt_rows_are_replaced_by_the_next_good_one_wherever_they_are(self):
        bad = {0: 1, 7: 9, 8: 9, 22: 1}  # row 22 is the last: row 0 follows it, and is bad too
        dataset = self.make(broken=list(bad)).dataset
        for batch_size in (1, 4, 7, ROWS):
            reader = FallbackRows(RowReader(dataset), 0.2)
            batches = list(evaluation_batches(reader, np.arange(ROWS), batch_size, 16, 16))
            self.assertAllEqual(np.concatenate([b["row"] for b in batches]), np.arange(ROWS))
            self.assertEqual({len(b["row"]) for b in batches[:-1]} | {batch_size}, {batch_size})
            images = np.concatenate([b["image"] for b in batches])
            for row in range(ROWS):
                expected = augment.center_crop(picture(bad.get(row, row)), 16, 16)
                self.assertAllClose(images[row], expected)
            self.assertLen(reader, 4)
            self.assertAllEqual(reader.rows(), [0, 7, 8, 22])

    @pytest.mark.slow
    def test_fallback_rows_are_the_same_for_any_threads_and_after_a_resume(self):
        dataset = self.make(broken=[2, 3, 13]).dataset
        wanted = draws(96)
        reader = FallbackRows(RowReader(dataset), 0.2)
        whole = list(training_batches(reader, wanted, 8, 16, threads=1))
        for start, threads in ((0, None), (0, 3), (5, 1), (11, None)):
            reader = FallbackRows(RowReader(dataset), 0.2)
            rest = training_batches(reader, wanted, 8, 16, start_step=start, threads=threads)
            for one, other in zip(whole[start:], rest, strict=True):
                self.assertAllEqual(one["image"], other["image"])
                self.assertAllEqual(one["sub_id"], other["sub_id"])
        for place in np.flatnonzero(np.isin(wanted.row, [2, 3]))[:3]:
            image = augment.random_resized_crop(picture(4), 16, wanted.seed[place]).numpy()
            arrived = whole[place // 8]["image"][place % 8]
            self.assertAllClose(arrived, np.rot90(image, wanted.rotation[place]))

    def test_a_shard_that_was_cut_short_is_filled_from_the_next(self):
        dataset = self.make().dataset
        os.truncate(dataset.shard_path(0), dataset.index(0)[4, 0] + 20)
        reader = FallbackRows(RowReader(dataset), 0.5)
        batches = list(evaluation_batches(reader, np.arange(ROWS), 4, 16, 16))
        images = np.concatenate([b["image"] for b in batches])
        self.assertAllClose(images[3], augment.center_crop(picture(3), 16, 16))
        for row in range(4, 10):  # a gap longer than a batch
            self.assertAllEqual(images[row], images[10])
        self.assertLen(reader, 6)

    def test_a_record_that_is_no_example_does_not_harm_its_neighbours(self):
        path = os.path.join(self.get_temp_dir(), "garbage")
        encode = schema.encode_example
        with mock.patch.object(schema, "encode_example") as faulty:
            faulty.side_effect = lambda e, *rest: encode(e, *rest) if e else b"\xff\xff\xff"
            with DatasetWriter(path) as writer:
                for row in range(6):
                    writer.write(b"" if row == 2 else picture(row))
        reader = FallbackRows(RowReader(Dataset.open(path)), 0.2)
        (batch,) = evaluation_batches(reader, np.arange(6), 6, 16, 16)
        for row in range(6):
            expected = augment.center_crop(picture(3 if row == 2 else row), 16, 16)
            self.assertAllClose(batch["image"][row], expected)
        self.assertLen(reader, 1)

    def test_beyond_the_share_it_is_an_error_that_says_what_to_do(self):
        dataset = self.make(broken=[3, 9, 14]).dataset
        named = "row 14 .*shard-00001.*offset .*3 of 23 rows.*max_bad_share = 0.1 .*--verify.*raise"
        with self.assertRaisesRegex(DataError, named), data_errors():
            list(
                evaluation_batches(
                    FallbackRows(RowReader(dataset), 0.1), np.arange(ROWS), 4, 16, 16
                )
            )
        all_bad = self.make(broken=list(range(ROWS))).dataset
        with self.assertRaisesRegex(DataError, "23 of 23 rows"), data_errors():
            list(
                evaluation_batches(
                    FallbackRows(RowReader(all_bad), 1.0), np.arange(ROWS), 4, 16, 16
                )
            )

    def test_a_shard_that_is_gone_is_an_error_whatever_the_share(self):
        dataset = self.make().dataset
        os.remove(dataset.shard_path(1))
        with self.assertRaisesRegex(DataError, "shard-00001.*cannot be read"), data_errors():
            list(
                evaluation_batches(
                    FallbackRows(RowReader(dataset), 1.0), np.arange(ROWS), 4, 16, 16
                )
            )

    def test_each_corrupt_row_is_logged_once(self):
        reader = FallbackRows(RowReader(self.make(broken=[5]).dataset), 0.2)
        with self.assertLogs("absl", "WARNING") as logged:
            for _ in range(3):
                list(evaluation_batches(reader, np.arange(ROWS), 4, 16, 16))
        self.assertLen(logged.output, 1)
        self.assertRegex(logged.output[0], "row 5 .*shard-00000.*offset.*Row 6 replaces it")

    def test_what_cannot_work_is_refused(self):
        reader = self.make()
        with self.assertRaisesRegex(ConfigError, "batch of 8 .* has 7"):
            training_batches(reader, draws(7), 8, 16)
        with self.assertRaisesRegex(ConfigError, "differ in length"):
            training_batches(reader, draws(9)._replace(row=np.arange(4)), 2, 16)
        with self.assertRaisesRegex(ConfigError, "short_side is 15"):
            evaluation_batches(reader, [0], 1, 16, 15)


if __name__ == "__main__":
    tf.test.main()
