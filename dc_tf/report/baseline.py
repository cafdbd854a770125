"""Clusters of the features of an untrained network, to stand beside those of a run: Figure 4.

    untrained(run, shown)          # a Clustering, or None where there are too many images

They are made as those of the run: the same layer, through a projection and whitened where the run
does so, as many clusters, on one level. All features are in memory, so this is for small data sets;
for others `dc_tf embed --random_init` and `dc_tf kmeans` make them on any number of workers.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import as_points
from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.curation.clusters.open import Clustering
from dc_tf.distributed.collectives import ALONE
from dc_tf.evaluation.frozen.embed import embed_in_memory
from dc_tf.evaluation.models import open_model, random_init
from dc_tf.kmeans_options import KMeansOptions
from dc_tf.training.step.projection import new_projection

MOST_ROWS = 20_000
_ITERATIONS = 10


def untrained(run, shown) -> Clustering | None:
    """The Clustering of an untrained network of the run's shape; None for many images.

    Args:
        run: clusters.open.Run.
        shown: clusters.open.Clustering of it, whose number of clusters is made.
    """
    if run.dataset.rows > MOST_ROWS:
        return None
    frozen = random_init(open_model(run.folder.path))
    bad = run.experiment.data.max_bad_share
    layer = frozen.trunk.feature_layer
    found = embed_in_memory(frozen, run.dataset, (layer,), max_bad_share=bad)[layer]
    stage = run.experiment.stages[shown.stage]
    vectors = _whitened(_projected(found, frozen.trunk, stage), stage.clustering)
    count = min(shown.count, len(vectors))
    options = KMeansOptions(iterations=_ITERATIONS, spherical=stage.clustering.spherical)
    result = kmeans(as_points(vectors), count, options=options)
    return dataclasses.replace(
        shown,
        name="untrained network",
        cluster=result.assignments,
        sub=np.zeros_like(result.assignments),
        clusters=count,
        sub_clusters=1,
        distance=None,
        centroids=None,
    )


def _projected(found, trunk, stage):
    """(rows, d): the trunk's features, or what an untrained projection makes of them."""
    projection = new_projection(stage, trunk)
    if projection is None:
        return found
    # As one batch, since its batch norm has no statistics of images yet.
    return projection(tf.nn.relu(found), training=True).numpy()


def _whitened(found, settings):
    if not settings.whiten:
        return found
    dim = min(settings.whitening_dim or found.shape[1], found.shape[1])
    return Whitening.fit(Moments.of(as_points(found)), ALONE, dim).apply(found)
