"""Clusters of the features of an untrained network, to stand beside those of a run: Figure 4.

    untrained(run, shown)          # a Clustering, or None where there are too many images

They are made as those of the run: the same layer, whitened, as many clusters, on one level. All
features are in memory, so this is for small data sets; for others `dc_tf embed --random_init` and
`dc_tf kmeans` make them on any number of workers.
"""

import dataclasses

import numpy as np

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import as_points
from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.curation.clusters import Clustering
from dc_tf.distributed.collectives import ALONE
from dc_tf.evaluation.frozen.embed import embed_in_memory
from dc_tf.evaluation.models import open_model, random_init
from dc_tf.kmeans_options import KMeansOptions

MOST_ROWS = 20_000
_ITERATIONS = 10


def untrained(run, shown) -> Clustering | None:
    """The Clustering of an untrained network of the run's shape; None for many images.

    Args:
        run: curation.clusters.Run.
        shown: curation.clusters.Clustering of it, whose number of clusters is made.
    """
    if run.dataset.rows > MOST_ROWS:
        return None
    frozen = random_init(open_model(run.folder.path))
    bad = run.experiment.data.max_bad_share
    layer = frozen.trunk.feature_layer
    found = embed_in_memory(frozen, run.dataset, (layer,), max_bad_share=bad)[layer]
    settings = run.experiment.stages[shown.stage].clustering
    dim = min(settings.whitening_dim or found.shape[1], found.shape[1])
    whitened = Whitening.fit(Moments.of(as_points(found)), ALONE, dim).apply(found)
    count = min(shown.count, len(whitened))
    result = kmeans(as_points(whitened), count, options=KMeansOptions(iterations=_ITERATIONS))
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
