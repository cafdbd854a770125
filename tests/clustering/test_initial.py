"""Initial rows: the same on any number of workers, equal ones told apart from distinct ones."""

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering.initial import Layout, drawn_rows, first_of_equals
from dc_tf.clustering.points import as_points
from dc_tf.distributed.collectives import Solo


def draw(comm, x, count, seed):
    points = as_points(np.array_split(x, comm.size)[comm.rank])
    return drawn_rows(points, count, comm, Layout.agree(points, comm), seed)


class InitialTest(tf.test.TestCase):
    def test_the_same_rows_are_drawn_on_any_number_of_workers(self):
        x = np.arange(100, dtype=np.float32)[:, None]
        alone = draw(Solo(), x, 30, 7)
        self.assertLen(np.unique(alone), 30)
        self.assertNotAllEqual(alone, draw(Solo(), x, 30, 8))
        for rows in workers.on_workers(2, draw, x, 30, 7):
            self.assertAllEqual(rows, alone)

    def test_all_rows_are_drawn_once_when_as_many_are_asked_for(self):
        x = np.arange(20, dtype=np.float32)[:, None]
        self.assertAllEqual(np.sort(draw(Solo(), x, 20, 0), axis=0), x)

    def test_the_first_of_equal_centroids_is_known(self):
        x = np.array([[0, 1], [-0.0, 1], [2, 1], [0, 1], [2, 1], [1, 2]], np.float32)
        self.assertAllEqual(first_of_equals(x), [True, False, True, False, False, True])
