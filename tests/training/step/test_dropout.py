"""Dropout masks: the same for an image on any number of workers."""

import numpy as np
import tensorflow as tf

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.topology import Topology
from dc_tf.training.step.dropout import dropout_masks

SUPER_CLASSES, BATCH, DIM = 4, 32, 50


def masks(workers, step=3, seed=(0, 1), views=2):
    """{super-class: (rows, views, DIM) of all its images}, from all workers."""
    topology = Topology(workers, SUPER_CLASSES)
    plan = BatchPlan(1, SUPER_CLASSES, BATCH, topology)
    found = {s: [] for s in range(SUPER_CLASSES)}
    for rank in range(workers):
        rows = dropout_masks(tf.constant(step), seed, plan, rank, views, DIM).numpy()
        assert rows.shape == (plan.per_worker, views, DIM)
        served = topology.served(rank)
        for s, part in zip(served, np.split(rows, len(served)), strict=True):
            found[s].append(part)
    return {s: np.concatenate(parts) for s, parts in found.items()}


class DropoutTest(tf.test.TestCase):
    def test_workers_together_have_the_masks_of_one(self):
        alone = masks(1)
        for workers in (2, 4, 8):
            for super_class, rows in masks(workers).items():
                self.assertAllEqual(rows, alone[super_class])

    def test_each_step_seed_super_class_view_and_image_has_its_own(self):
        own = masks(1)
        self.assertAllInSet(own[0], (0.0, 2.0))
        self.assertBetween(np.mean([own[s] for s in own]), 0.9, 1.1)
        rows = np.concatenate([own[s].reshape(-1, DIM) for s in own])
        self.assertLen(np.unique(rows, axis=0), len(rows))
        for others in (masks(1, step=4), masks(1, seed=(0, 2)), masks(1, seed=(1, 1))):
            self.assertNotAllEqual(others[0], own[0])


if __name__ == "__main__":
    tf.test.main()
