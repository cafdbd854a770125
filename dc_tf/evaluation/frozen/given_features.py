"""Features of files in the place of a network, for tasks on frozen features.

    frozen, train, test = open_given(request)          # of --features, --train and --test
    knn.evaluate(frozen, train, test, frozen.trunk.layer_names, Protocol())

The "images" of these splits are rows of features, and the network is the identity, so a task does
with them what it does with the features of a network. Features belong to a data set, or to the one
that a view lists rows of; files without a record belong to the one with as many rows.
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.clustering.store import feature_files
from dc_tf.clustering.store.feature_files import Features
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError
from dc_tf.evaluation.models import FrozenModel
from dc_tf.evaluation.splits import Split, open_splits

# What has to be equal in the records of training and test features.
_SAME = ("weights", "cells", "mirror", "short_side", "network")


class GivenRows:
    """The identity as a network; see `networks.network.Network` for its attributes.

    Attributes:
        item_shape: [components of a row].
    """

    kind = "features"
    dense_layers = map_names = ()
    product_dtype = "own"

    def __init__(self, features: Features):
        self.feature_layer = features.layer or "features"
        self.layer_names = (self.feature_layer,)
        self.item_shape = [features.dim]
        self.settings = {"resolution": 0, "dim": features.dim}
        self.digest = features.fingerprint()

    def __call__(self, rows, training=False) -> dict:
        """{layer: (b, d) float32} of (b, d) float32."""
        return {self.feature_layer: rows}


@dataclasses.dataclass(frozen=True)
class FeatureSplit(Split):
    """A Split whose images are rows of features.

    Attributes:
        features: Features.
        places: (n,) int64, the row of `features` of each of `rows`.
    """

    features: Features = None
    places: np.ndarray = None

    def images(
        self, batch_size, resolution, short_side, places=slice(None), interpolation="bilinear"
    ) -> tf.data.Dataset:
        """Batches of (b, d) float32, in the order of `rows`."""
        del resolution, short_side, interpolation
        wanted = self.places[places]

        def batches():
            for start in range(0, len(wanted), batch_size):
                yield self.features.take(wanted[start : start + batch_size]).astype(np.float32)

        spec = tf.TensorSpec([None, self.features.dim], tf.float32)
        return tf.data.Dataset.from_generator(batches, output_signature=spec)

    def augmented(self, *args, **kwargs) -> tf.data.Dataset:
        """Not possible; raises ConfigError."""
        raise ConfigError("features cannot be augmented; set augment=false.")

    def errors(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()


def open_given(request) -> tuple[FrozenModel, FeatureSplit, FeatureSplit]:
    """The features of both labelled data sets, and the identity as their network.

    Args:
        request: tasks.Request with `features`.

    Raises:
        ConfigError: a data set is missing or has no labels, features are not of it, or those of
            both data sets were made differently.
        DataError: a corrupt file.
    """
    for name in ("train", "test"):
        if not getattr(request, name):
            raise ConfigError(f"--{name} is missing; give the data set of the features' labels.")
    splits = open_splits(request.train, request.test)
    train = _with_features(splits[0], open_matrix(request, "features"))
    test = _with_features(splits[1], of_test(request, train.features))
    for name, split in (("train", train), ("test", test)):
        request.opened[name] = split.reader.dataset.fingerprint()
    return given_model(request, train.features), train, test


def given_model(request, features) -> FrozenModel:
    """The identity under the name of the features."""
    trunk = GivenRows(features)
    request.opened["weights"] = features.about.get("weights", trunk.digest)
    request.opened["features"] = trunk.digest
    request.opened["compute_dtype"] = features.about.get("compute_dtype")
    return FrozenModel(str(features.path), trunk, 0, trunk.product_dtype)


def open_matrix(request, name: str) -> Features:
    """The Features of the flag `name`, "features" or "test_features"."""
    given = getattr(request, name)
    layer = None if "all" in request.layers else ",".join(request.layers)
    try:
        return feature_files.open_given(given, layer=layer, column=request.column)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--features", f"--{name}", 1)) from error


def of_test(request, features: Features) -> Features:
    """The features of the test images: --test_features, or those of --features.

    Raises:
        ConfigError: the two were made differently.
    """
    if request.test_features is None:
        return features
    test = open_matrix(request, "test_features")
    if test.dim != features.dim:
        raise ConfigError(
            f"--test_features={test.path} has rows of {test.dim} values, but "
            f"--features={features.path} of {features.dim}; embed both with the same network."
        )
    for name in _SAME:
        values = [one.about.get(name) for one in (features, test)]
        if features.about and test.about and values[0] != values[1]:
            raise ConfigError(
                f"--features={features.path} and --test_features={test.path} were made "
                f"differently: {name} is {values[0]} and {values[1]}; embed both alike."
            )
    return test


def places_of(features: Features, dataset: Dataset, rows) -> np.ndarray:
    """(n,) int64 rows of the features that belong to rows of a data set.

    Raises:
        ConfigError: the features are of another data set.
    """
    recorded = features.about.get("data")
    for one in (dataset, dataset.base):
        if one is None:
            continue
        same = recorded == one.fingerprint() if recorded else features.rows == one.rows
        if same:
            return np.asarray(rows if one is dataset else dataset.base_rows(rows), np.int64)
    has = recorded or f"{features.rows} rows"
    raise ConfigError(
        f"{features.path} has features of a data set of {has}, but {dataset.path} has "
        f"{dataset.fingerprint()}; give the features of --train as --features and those of --test "
        "as --test_features."
    )


def _with_features(split, features) -> FeatureSplit:
    places = places_of(features, split.reader.dataset, split.rows)
    values = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
    return FeatureSplit(**values, features=features, places=places)
