"""A finished clustering as a tree of one level.

tree = flat_tree("CLUSTERS", dataset)                       # of `dc_tf kmeans`, or a run
tree = flat_tree("CLUSTERS", dataset, features)             # with distances, in these features
"""

import numpy as np

from dc_tf.curation.tree import Tree
from dc_tf.errors import ConfigError, DataError


def flat_tree(clusters, dataset, features=None) -> Tree:
    """The clusters of `dc_tf kmeans`, or of a run's last round.

    Args:
        clusters: output folder of `dc_tf kmeans`, or a run folder.
        dataset: Dataset that was clustered.
        features: Features of it, for distances to the mean of each cluster; None: without.

    Raises:
        ConfigError: it is no finished clustering of that data set.
    """
    from dc_tf.evaluation.clusters.clusterings import find  # which imports TensorFlow

    try:
        found = find(clusters)
        labels = found[-1].levels(dataset)["clusters"] if found else None
    except (ConfigError, DataError) as error:
        text = str(error).replace("--train", "--data").replace("--model", "--clusters")
        raise ConfigError(text) from error
    except KeyError:
        labels = None
    if labels is None:
        raise ConfigError(f"--clusters={clusters} has no round with more than one cluster yet.")
    labels = np.asarray(labels, np.int32)
    return Tree(labels, (), _distances(features, labels) if features is not None else None)


def _distances(features, labels):
    """(N,) float32 distance of each row to the mean of its cluster."""
    from dc_tf.clustering.store.points import chunks
    from dc_tf.curation.choose_rows import distances_to

    counts = np.bincount(labels)
    sums = np.zeros((len(counts), features.dim))
    for start, rows in chunks(features, 16384):
        np.add.at(sums, labels[start : start + len(rows)], rows)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return distances_to(features, labels, means)
