import numpy as np
import tensorflow as tf
from sklearn.metrics import average_precision_score

from dc_tf.evaluation.average_precision import (
    area,
    classes_of,
    curve,
    eleven_points,
    enveloped_area,
)


def ranked(seed, n=60, ties=False):
    random = np.random.default_rng(seed)
    hits = random.random(n) < 0.3
    hits[0] = True
    scores = random.standard_normal(n) + hits
    return (np.round(scores, 1) if ties else scores), hits


def slow_points(scores, hits, positives):
    """VOC 2007's definition, one threshold at a time, in integers where possible."""
    total = 0.0
    for tenth in range(11):
        best = 0.0
        for threshold in scores:
            chosen = scores >= threshold
            found = int(np.sum(hits & chosen))
            if 10 * found >= tenth * positives:
                best = max(best, found / int(chosen.sum()))
        total += best
    return total / 11


def slow_envelope(scores, hits, positives):
    """VOC 2010: each hit adds 1 / positives at the best precision from there on."""
    total = 0.0
    order = np.argsort(-scores)
    precisions = [np.mean(hits[order][: i + 1]) for i in range(len(order))]
    for place, index in enumerate(order):
        if hits[index]:
            total += max(precisions[place:]) / positives
    return total


class AveragePrecisionTest(tf.test.TestCase):
    def test_closed_forms(self):
        perfect = curve([3, 2, 1, 0], [1, 1, 0, 0])
        for metric in (area, enveloped_area, eleven_points):
            self.assertAlmostEqual(metric(*perfect), 1.0)
        # Hits at ranks 2 and 4: precision 1/2 at recall 1/2 and at recall 1.
        worst = curve([3, 2, 1, 0], [0, 1, 0, 1])
        for metric in (area, enveloped_area, eleven_points):
            self.assertAlmostEqual(metric(*worst), 0.5)
        # Hits at ranks 1 and 3: 1 up to recall 1/2 (six of the eleven points), then 2/3.
        mixed = curve([3, 2, 1], [1, 0, 1])
        self.assertAlmostEqual(area(*mixed), (1 + 2 / 3) / 2)
        self.assertAlmostEqual(eleven_points(*mixed), (6 + 5 * 2 / 3) / 11)
        # n hits last of 2n: precision grows as i / (n + i), and the best is always the last, 1/2.
        last = curve(np.arange(8, 0, -1), [0] * 4 + [1] * 4)
        self.assertAlmostEqual(area(*last), np.mean([i / (4 + i) for i in range(1, 5)]))
        self.assertAlmostEqual(enveloped_area(*last), 0.5)

    def test_area_is_that_of_scikit_learn_with_and_without_equal_scores(self):
        for seed in range(20):
            for ties in (False, True):
                scores, hits = ranked(seed, ties=ties)
                self.assertAlmostEqual(
                    area(*curve(scores, hits)), average_precision_score(hits, scores), places=12
                )

    def test_eleven_points_and_the_envelope_are_those_of_slow_programs(self):
        for seed in range(10):
            for missed in (0, 7):
                scores, hits = ranked(seed)
                positives = int(hits.sum()) + missed
                found = curve(scores, hits, positives)
                expected = slow_points(scores, hits, positives)
                self.assertAlmostEqual(eleven_points(*found), expected, places=12)
                expected = slow_envelope(scores, hits, positives)
                self.assertAlmostEqual(enveloped_area(*found), expected, places=12)
            scores, hits = ranked(seed, ties=True)
            expected = slow_points(scores, hits, int(hits.sum()))
            self.assertAlmostEqual(eleven_points(*curve(scores, hits)), expected, places=12)

    def test_equal_scores_make_the_order_of_rows_irrelevant(self):
        constant = curve(np.zeros(10), np.arange(10) < 3)
        self.assertAlmostEqual(area(*constant), 0.3)
        self.assertAlmostEqual(eleven_points(*constant), 0.3)

    def test_a_recall_of_exactly_a_tenth_reaches_its_point(self):
        for positives in range(1, 31):
            scores = np.arange(positives, 0, -1)
            for found in range(positives + 1):
                hits = np.arange(positives) < found
                expected = (10 * found // positives + 1) / 11 if found else 0.0
                point = eleven_points(*curve(scores, hits, positives))
                self.assertAlmostEqual(point, expected)

    def test_no_hits_give_zero_and_no_positives_give_nan(self):
        for metric in (area, enveloped_area, eleven_points):
            self.assertEqual(metric(*curve([], [], positives=3)), 0.0)
        self.assertTrue(np.isnan(area(*curve([1.0], [False], positives=0))))

    def test_classes_ignore_labels_that_are_neither_0_nor_1(self):
        scores, hits = ranked(0)
        labels = np.stack([hits, hits, np.zeros_like(hits)], 1).astype(np.int8)
        labels[5:9, 1] = -1
        found = classes_of(np.stack([scores] * 3, 1), labels)
        kept = np.delete(np.arange(60), np.arange(5, 9))
        expected = [
            average_precision_score(hits, scores),
            average_precision_score(hits[kept], scores[kept]),
        ]
        self.assertAllClose(found["area"][:2], expected)
        self.assertTrue(np.isnan(found["area"][2]))
        self.assertTrue(np.isnan(found["eleven_points"][2]))


if __name__ == "__main__":
    tf.test.main()
