"""The forward pass of a stage's network over the views of a batch.

    forward = Forward(trunk, projection, stage.views)
    vectors, classified = forward(batch)            # (b * views, d), the views of an image together
    forward.labels(batch)                           # of each of these rows
    forward.of_images(vectors)                      # (b, d)

The views of an image stay side by side, so that the rows stay ordered by super-class, as the heads
need them.
"""

import tensorflow as tf


class Forward:
    """Trunk and projection in training mode; a pass over global views, one over local ones."""

    def __init__(self, trunk, projection, views):
        """Takes the networks, with weights.

        Args:
            trunk: Trunk.
            projection: Projection, or None.
            views: experiment.Views of the stage.
        """
        self._trunk = trunk
        self._projection = projection
        self._views = views

    def __call__(self, batch) -> tuple[tf.Tensor, tf.Tensor]:
        """What is clustered, and what the heads classify.

        Args:
            batch: images as of `Learner.step`, and with dropout a dropout_mask (b, views, dim).

        Returns:
            (b * views, d) float32 each: features before their ReLU and after it, or the output of
            the projection twice.
        """
        vectors = _joined(self._features(batch))
        classified = tf.nn.relu(vectors)
        if self._projection:
            vectors = classified = self._projection(classified, training=True)
        return vectors, classified

    def labels(self, batch) -> list[tf.Tensor]:
        """super_id (b * views,) and sub_id (b * views, ...) of each view of each image."""
        return [tf.repeat(batch[name], self._views.count, 0) for name in ("super_id", "sub_id")]

    def of_images(self, vectors) -> tf.Tensor:
        """(b, d): the mean of the global views of an image, of length 1 if those of views are."""
        views = self._views
        of_views = tf.reshape(vectors, [-1, views.count, vectors.shape[-1]])
        if views.global_views == 1:
            return of_views[:, 0]
        mean = tf.reduce_mean(of_views[:, : views.global_views], 1)
        return tf.math.l2_normalize(mean, -1) if self._projection else mean

    def _features(self, batch):
        """(b, views, d), the trunk's features."""
        features, done = [], 0
        for images in self._passes(batch):
            count = images.shape[1]
            mask = None
            if self._trunk.dropout_dim:
                mask = _joined(batch["dropout_mask"][:, done : done + count])
            endpoints = self._trunk(_joined(images), training=True, dropout_mask=mask)
            found = endpoints[self._trunk.feature_layer]
            features.append(tf.reshape(found, [-1, count, self._trunk.feature_dim]))
            done += count
        return tf.concat(features, 1)

    def _passes(self, batch):
        """Images (b, views, side, side, 3) of each pass of the trunk."""
        images = batch["image"]
        yield images[:, None] if self._views.count == 1 else images
        if self._views.local_views:
            yield batch["local_image"]


def _joined(tensor):
    """(b * views, ...) of (b, views, ...)."""
    count, views, *rest = tensor.shape
    return tf.reshape(tensor, [count * views, *rest])
