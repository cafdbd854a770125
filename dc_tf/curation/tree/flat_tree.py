"""A finished clustering as a tree.

tree = flat_tree("CLUSTERS", dataset)                       # of `dc_tf kmeans`: one level
tree = flat_tree("RUN", dataset, features)                  # sub-clusters below clusters
"""

import os

import numpy as np

from dc_tf.curation.tree.tree import Tree
from dc_tf.errors import ConfigError, DataError
from dc_tf.run_dir import RunDir

_CHUNK_ROWS = 16384


def flat_tree(clusters, dataset, features=None) -> Tree:
    """The clusters of `dc_tf kmeans`, or those of a run's last round with their sub-clusters.

    Args:
        clusters: output folder of `dc_tf kmeans`, or a run folder.
        dataset: Dataset that was clustered.
        features: Features of it, for distances to the mean of each cluster; None: without.

    Raises:
        ConfigError: it is no finished clustering of that data set.
    """
    from dc_tf.curation.clusters.open import of_either  # which imports TensorFlow
    from dc_tf.evaluation.clusters.clusterings import is_kmeans

    if not is_kmeans(clusters) and not os.path.isfile(RunDir(clusters).config):
        raise ConfigError(
            f"--clusters={clusters} is neither a run nor the --output of a `dc_tf kmeans` that has "
            "finished; give one of these."
        )
    try:
        found = of_either(clusters, dataset)
    except (ConfigError, DataError) as error:
        text = str(error)
        for flag in ("--compare", "--run", "--model"):
            text = text.replace(f"{flag}={clusters}", f"--clusters={clusters}")
        raise ConfigError(text.replace("--train", "--data")) from error
    labels = np.empty(dataset.rows, np.int32)
    for first, flat, _ in found.blocks():
        labels[first : first + len(flat)] = flat
    parents = ()
    if found.sub_clusters > 1:
        parents = (np.arange(found.count, dtype=np.int32) // found.sub_clusters,)
    distances = None if features is None else _distances(features, labels, found.count)
    return Tree(labels, parents, distances)


def _distances(features, labels, clusters):
    """(N,) float32 distance of each row to the mean of its cluster."""
    from dc_tf.clustering.store.points import chunks
    from dc_tf.curation.tree.choose_rows import distances_to

    sums = np.zeros((clusters, features.dim))
    for start, rows in chunks(features, _CHUNK_ROWS):
        np.add.at(sums, labels[start : start + len(rows)], rows)
    counts = np.bincount(labels, minlength=clusters)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return distances_to(features, labels, means)
