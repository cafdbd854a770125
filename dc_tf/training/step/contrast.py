"""The views of an image find each other among the images of the batch (`Stage.contrast`).

    contrast = BatchContrast(cluster, plan, stage)
    losses = contrast(vectors)                  # (b * views,) nats

A view is compared with all other global views of its super-class in the global batch, of the other
workers as well. Its loss is the mean over the other views of its own image of the cross-entropy of
softmax(cosines / temperature) at that view.

Reference: Chen et al. 2020, Eq. 1 (NT-Xent); beside the loss of prototypes, Li et al. 2021, Eq. 11
(ProtoNCE). A mean over several positives is Khosla et al. 2020, Eq. 2.
"""

import numpy as np
import tensorflow as tf

_SELF = -1e9  # added to the logit of a view with itself


class BatchContrast:
    """The loss of a stage on one worker.

    Args:
        cluster: Cluster.
        plan: BatchPlan of the stage.
        stage: experiment.Stage, with a projection and two global views or more.
    """

    def __init__(self, cluster, plan, stage):
        topology = plan.topology
        self._served = len(topology.served(cluster.rank))
        self._comm = cluster.group(topology.sharers(cluster.rank))
        self._views = stage.views
        self._temperature = stage.contrast.temperature

    def __call__(self, vectors) -> tf.Tensor:
        """(b * views,) float32 loss of each view; the mean over all is that over global views.

        Args:
            vectors: (b * views, d) float32 of L2 norm 1, images ordered by the served
                super-classes, the views of an image together, global ones first.
        """
        views, local = self._views.global_views, self._views.local_views
        of_views = tf.reshape(vectors, [-1, self._views.count, vectors.shape[-1]])[:, :views]
        own = tf.reshape(of_views, [self._served, -1, vectors.shape[-1]])
        rows = own.shape[1]
        everyone, first = self._of_all(own)
        logits = tf.matmul(own, everyone, transpose_b=True) / self._temperature
        places = first + np.arange(rows)
        logits += _SELF * tf.one_hot(places, everyone.shape[1])
        others = _other_views(rows, views) + first
        chances = tf.nn.log_softmax(logits)
        found = tf.gather(chances, tf.tile(others[tf.newaxis], [self._served, 1, 1]), batch_dims=2)
        losses = tf.reshape(-tf.reduce_mean(found, 2), [-1, views])
        # Local views have none, and count in the mean over views.
        losses *= self._views.count / views
        return tf.reshape(tf.pad(losses, [[0, 0], [0, local]]), [-1])

    def _of_all(self, own):
        """((served, n, d) views of all workers, where those of this worker begin)."""
        comm, rows = self._comm, own.shape[1]
        if comm.size == 1:
            return own, 0
        before, after = comm.rank * rows, (comm.size - 1 - comm.rank) * rows
        # With the others' zeros a sum is exact, and its gradient is the sum over the workers.
        return comm.all_sum(tf.pad(own, [[0, 0], [before, after], [0, 0]])), before


def _other_views(rows, views) -> np.ndarray:
    """(rows, views - 1) places of the other views of the image of each view."""
    of_image = np.arange(views)
    other = np.stack([of_image[of_image != view] for view in range(views)])
    image = np.arange(0, rows, views)
    return (image[:, None, None] + other).reshape(rows, views - 1)
