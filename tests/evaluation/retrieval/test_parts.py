"""Unit tests of ranking, regions and ground truths: against simpler code, and invalid inputs."""

import json
import os
import pickle
import shutil
import tempfile
from unittest import mock

import numpy as np
import pictures
import tensorflow as tf
from reference_ap import area_by_steps
from sklearn.metrics import average_precision_score

from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.average_precision import average_precision
from dc_tf.evaluation.retrieval import rmac, safe_pickle
from dc_tf.evaluation.retrieval.images import scaled_image
from dc_tf.evaluation.retrieval.safe_pickle import load_plain
from dc_tf.evaluation.retrieval.task import Protocol, rankings, read_ground_truth


class AveragePrecisionTest(tf.test.TestCase):
    def test_it_is_the_area_that_is_found_rank_by_rank(self):
        random = np.random.default_rng(0)
        for _ in range(50):
            ranked = random.permutation(40)
            kinds = random.permutation(40)
            positives, junk = kinds[: random.integers(1, 12)], kinds[12 : random.integers(12, 30)]
            self.assertAllClose(
                average_precision(ranked, positives, junk),
                area_by_steps(ranked.tolist(), positives.tolist(), junk.tolist()),
            )

    def test_it_is_near_scikit_learns_where_many_are_found(self):
        random = np.random.default_rng(0)
        ground_truth, noise = random.random(5000) < 0.3, random.random(5000)
        scores = noise + 0.5 * ground_truth
        found = average_precision(np.argsort(-scores), np.flatnonzero(ground_truth))
        self.assertAllClose(found, average_precision_score(ground_truth, scores), atol=2e-3)

    def test_closed_forms(self):
        self.assertEqual(average_precision([3, 1, 0, 2], [3, 1]), 1.0)
        self.assertEqual(average_precision([3, 1, 0, 2], [1], junk=[3]), 1.0)
        # Second place: precision goes from 0 before to 1/2, one step of recall.
        self.assertEqual(average_precision([3, 1, 0, 2], [1]), 0.25)
        self.assertEqual(average_precision([0, 1], [1, 7]), 0.125)  # 7 is never found
        with self.assertRaisesRegex(ValueError, "without positives"):
            average_precision([0], [1], junk=[1])


class RegionsTest(tf.test.TestCase):
    def test_counts_sides_and_places_are_those_of_the_rule(self):
        square = rmac.grid(7, 7)
        self.assertAllEqual(np.unique(square[:, 2], return_counts=True), [[3, 4, 7], [9, 4, 1]])
        # 64 wide, 48 high: two at level 1 overlap by 2/3, the nearest to 0.4 that there is.
        wide = rmac.grid(48, 64)
        self.assertLen(wide, 2 + 2 * 3 + 3 * 4)
        self.assertAllEqual(wide[:2], [[0, 0, 48], [0, 16, 48]])
        self.assertAllEqual(wide[2:8, 2], [32] * 6)
        self.assertAllEqual(np.unique(wide[8:, 1]), [0, 13, 26, 40])
        self.assertAllEqual(np.unique(wide[8:, 0]), [0, 12, 24])

    def test_overlap_is_as_near_as_it_can_be(self):
        for long in range(11, 60):
            regions = rmac.grid(10, long, levels=1)
            gap = abs(1 - (long - 10) / ((len(regions) - 1) * 10) - 0.4)
            for other in range(2, 20):
                self.assertGreaterEqual(abs(1 - (long - 10) / ((other - 1) * 10) - 0.4), gap - 1e-9)
            self.assertEqual(regions[-1, 1] + 10, long)

    def test_a_tall_map_is_a_wide_one_turned(self):
        turned = rmac.grid(30, 17)[:, [1, 0, 2]]
        self.assertCountEqual(map(tuple, turned), map(tuple, rmac.grid(17, 30)))

    def test_regions_stay_inside_of_any_map(self):
        for height in range(1, 9):
            for width in range(1, 30):
                top, left, side = rmac.grid(height, width).T
                self.assertTrue((side >= 1).all() and (top >= 0).all() and (left >= 0).all())
                self.assertTrue((top + side <= height).all() and (left + side <= width).all())

    def test_maxima_are_of_each_region_and_of_length_1(self):
        maps = np.random.default_rng(0).random((5, 6, 3), np.float32)
        (vector, nothing) = rmac.maxima(maps * [1, 1, 1], [(1, 2, 3), (0, 0, 1)])
        expected = maps[1:4, 2:5].reshape(-1, 3).max(0)
        self.assertAllClose(vector, expected / np.sqrt((expected**2).sum()))
        self.assertAllClose(np.linalg.norm(nothing), 1.0)
        self.assertAllEqual(rmac.maxima(np.zeros((2, 2, 3)), [(0, 0, 2)]), np.zeros((1, 3)))
        pair = np.float32([[1, 0], [0, 1]])
        self.assertAllClose(rmac.aggregate(pair), [0.5**0.5, 0.5**0.5])


class RankingsTest(tf.test.TestCase):
    def test_they_are_exact_and_complete(self):
        random = np.random.default_rng(0)
        database, queries = random.random((70, 8), np.float32), random.random((9, 8), np.float32)
        found = np.stack(list(rankings(database, queries)))
        self.assertAllEqual(found, np.argsort(-queries @ database.T, axis=1))


class ImagesTest(tf.test.TestCase):
    def test_the_longest_side_is_scaled_and_a_box_is_cut_at_the_same_scale(self):
        path = pictures.write(self.get_temp_dir(), "a.png", pictures.encoded(size=(40, 80)))
        whole = scaled_image(path, None, 160)
        self.assertEqual(whole.shape, (80, 160, 3))
        part = scaled_image(path, (10.0, 4.0, 50.0, 34.0), 160)
        self.assertEqual(part.shape, (60, 80, 3))
        self.assertAllClose(part[4:-4, 4:-4], whole[12:64, 24:96], atol=1e-5)
        self.assertEqual(scaled_image(path, (0, 0, 2, 40), 160).shape, (80, 14, 3))
        with self.assertRaisesRegex(DataError, "is outside "):
            scaled_image(path, (90, 0, 95, 10), 160)


class TruthTest(tf.test.TestCase):
    def folder(self, names=()):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for seed, name in enumerate(names):
            pictures.write(folder, name, pictures.encoded(seed))
        return folder

    def oxford(self, **files):
        folder = self.folder([f"images/{n}.jpg" for n in ("all_1", "all_2", "all_3", "other_1")])
        files = {
            "query": "oxc1_all_1 1.5 2 8 9\n",
            "good": "all_1\n",
            "ok": "all_2\n\n",
            "junk": "all_3\n",
        } | files
        for kind, text in files.items():
            if text is not None:
                pictures.write(folder, f"gt/all_1_{kind}.txt", text)
        return folder

    def test_oxfords_files_are_read(self):
        folder = self.oxford()
        ground_truth = read_ground_truth(folder)
        self.assertEqual(ground_truth.kind, "classic")
        self.assertLen(ground_truth.database, 4)
        (query,) = ground_truth.queries
        self.assertEqual(query.box, (1.5, 2.0, 8.0, 9.0))
        self.assertEqual(os.path.relpath(query.path, folder), "images/all_1.jpg")
        self.assertAllEqual(query.answers["map"].positives, [0, 1])
        self.assertAllEqual(query.answers["map"].junk, [2])

    def test_what_is_wrong_with_oxfords_files_is_said(self):
        for files, message in (
            ({"ok": None}, "all_1_ok.txt"),
            ({"good": "all_9\n"}, "'all_9', named in .*good.txt, is missing"),
            ({"query": "all_1 5 2 1 9"}, "left < right"),
            ({"query": "all_1 5 x 1 9"}, "four numbers"),
            ({"query": ""}, "left < right|four numbers"),
            ({"good": "", "ok": ""}, "name no image"),
        ):
            with self.assertRaisesRegex(DataError, message):
                read_ground_truth(self.oxford(**files))

    def revisited(self, name="gnd_test.pkl", **changes):
        folder = self.folder([f"jpg/{n}.png" for n in ("a", "b", "c", "d", "q")])
        values = {
            "imlist": ["a", "b", "c", "d"],
            "qimlist": ["q"],
            "gnd": [{"bbx": [0, 0, 5.5, 5], "easy": np.array([0]), "hard": [1], "junk": [2]}],
        } | changes
        if name.endswith("pkl"):
            data = pickle.dumps(values, protocol=2)
        else:
            data = json.dumps(values, default=lambda array: array.tolist())
        pictures.write(folder, name, data)
        return folder

    def test_the_revisited_ground_truth_is_read_from_pickle_and_json(self):
        for name in ("gnd_test.pkl", "gnd_test.json"):
            ground_truth = read_ground_truth(self.revisited(name))
            (query,) = ground_truth.queries
            found = {f: (a.positives.tolist(), a.junk.tolist()) for f, a in query.answers.items()}
            self.assertEqual(
                found,
                {"easy": ([0], [2, 1]), "hard": ([1], [2, 0]), "medium": ([0, 1], [2])},
            )
            self.assertEqual(ground_truth.metrics[-1], "medium")

    def test_what_is_wrong_with_a_revisited_ground_truth_is_said(self):
        for changes, message in (
            ({"imlist": ["a", "b", "c", "x"]}, "'x', named in"),
            ({"gnd": [{"bbx": [0, 0, 5, 5], "easy": [9], "hard": [], "junk": []}]}, "row ids"),
            ({"gnd": [{"bbx": [0, 0, 5, 5]}]}, "KeyError"),
            ({"gnd": []}, "is longer|not a ground truth"),
            (
                {"gnd": [{"bbx": [0, 0, 5, 5], "easy": [], "hard": [], "junk": []}]},
                "no query with",
            ),
        ):
            with self.assertRaisesRegex(DataError, message):
                read_ground_truth(self.revisited(**changes))

    def test_groups_are_folders(self):
        ground_truth = read_ground_truth(
            self.folder(["cup/1.png", "cup/2.png", "hat/x/1.png", "hat/2.png"])
        )
        self.assertEqual(ground_truth.kind, "groups")
        self.assertLen(ground_truth.queries, 4)
        self.assertAllEqual(ground_truth.queries[1].answers["map"].positives, [0, 1])
        self.assertAllEqual(ground_truth.queries[1].answers["map"].junk, [1])
        alone = read_ground_truth(
            self.folder(["cup/1.png", "cup/2.png", "hat/1.png", "0.png", "1.png"])
        )
        self.assertEqual([query.row for query in alone.queries], [2, 3])

    def test_folders_without_or_with_two_ground_truths_are_refused(self):
        both = self.oxford()
        pictures.write(both, "gnd_x.json", "{}")
        for folder, message in (
            (both, "one ground truth at a time"),
            (self.folder(["1.png", "2.png"]), "no sub-folder with two"),
            (self.folder(), "no images"),
            (os.path.join(both, "absent"), "not a folder"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                read_ground_truth(folder)

    def test_senseless_settings_are_refused(self):
        for wrong in (
            dict(longest_side=5),
            dict(layer="fc7"),
            dict(levels=0),
            dict(overlap=1.0),
            dict(paper="oxford"),
        ):
            with self.assertRaisesRegex(ConfigError, next(iter(wrong))):
                Protocol(**wrong)


class PlainPickleTest(tf.test.TestCase):
    def test_values_and_arrays_come_back_in_every_protocol(self):
        value = {
            "names": ["a", b"b", 1, 2.5, None, True, (1, 2)],
            "ids": np.array([3, 1, 2]),
            "box": np.float32([[1.5, 2.5], [3, 4]]),
            "turned": np.arange(6).reshape(2, 3).T,
            "swapped": np.array([1, 2], ">i4"),
            "one": np.int64(7),
            "text": np.array(["all", "souls"]),
        }
        for protocol in range(6):
            found = load_plain(pickle.dumps(value, protocol=protocol), "a.pkl")
            self.assertEqual(found["names"], value["names"])
            for name in ("ids", "box", "turned", "swapped", "one"):
                self.assertAllEqual(found[name], value[name])
            self.assertEqual(found["text"].tolist(), ["all", "souls"])

    def test_a_pickle_of_python_2_is_read(self):
        data = b"(dp0\nS'imlist'\np1\n(lp2\nS'all_souls'\np3\nas."
        self.assertEqual(load_plain(data, "a.pkl"), {"imlist": ["all_souls"]})

    def test_nothing_is_called_and_nothing_else_comes_back(self):
        class Call:
            def __init__(self, function, *args):
                self._call = function, args

            def __reduce__(self):
                return self._call

        mark = os.path.join(self.get_temp_dir(), "mark")
        lists = [[0] * 10]
        for _ in range(30):
            lists.append([lists[-1]] * 10)
        hostile = [
            pickle.dumps(Call(os.mkdir, mark)),
            pickle.dumps(Call(eval, f"__import__('os').mkdir({mark!r})")),
            pickle.dumps(np.array([Call(os.mkdir, mark)], object)),
            pickle.dumps({1, 2}),
            pickle.dumps(Protocol()),
            pickle.dumps(lists[-1]),
            b"cos\nsystem\n(S'true'\ntR.",
            b"cnumpy.core.multiarray\n_reconstruct\n(dS'__doc__'\nS'x'\nsb.",
            b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
            pickle.dumps(np.arange(4))[:-9] + b"junk.",
            b"",
        ]
        with mock.patch.object(safe_pickle, "MAX_VALUES", 10_000):
            for data in hostile:
                with self.assertRaisesRegex(DataError, "a.pkl cannot be read as plain values"):
                    load_plain(data, "a.pkl")
        self.assertFalse(os.path.exists(mark))


if __name__ == "__main__":
    tf.test.main()
