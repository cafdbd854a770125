"""TensorFlow data sets as a source: "tfds:cifar10", "tfds:imagenet_v2/matched-frequency:test".

Encoded images are copied without decoding. A `ClassLabel` feature named `label` becomes the label;
other numbers and strings become metadata.
"""

import contextlib
import re
import sys
from collections.abc import Iterator

from dc_tf.data.sources.item import Item
from dc_tf.data.storage.metadata import bounded
from dc_tf.errors import ConfigError

PREFIX = "tfds:"
_DEFAULT_SPLIT = "train"
# The name may end with a version, as in "mnist:3.0.1".
_FORM = re.compile(r"tfds:(?P<name>[^:\[\]]+(:[\d.*]+)?)(:(?P<split>.+))?")


class TfdsSource:
    """The images of one split, in storage order."""

    def __init__(self, name, data_dir=None):
        """Opens the data set; downloads and prepares it first if needed.

        Args:
            name: "tfds:NAME" or "tfds:NAME:SPLIT"; a split may be a slice, "train[:10%]".
            data_dir: folder of the data sets; None: the default of tensorflow-datasets.

        Raises:
            ConfigError: there is no such data set or split, or it has no images.
        """
        self._tfds = _import_tfds()
        name, self._split = split_name(name)
        try:
            self._builder = self._tfds.builder(name, data_dir=data_dir)
        except (self._tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ConfigError(
                f"there is no TensorFlow data set {name!r} ({reason}); use a name of "
                "https://www.tensorflow.org/datasets/catalog, as NAME/CONFIG where it has several."
            ) from error
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            self._builder.download_and_prepare()
        info = self._builder.info
        try:
            self.total = info.splits[self._split].num_examples
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{name} has no split {self._split!r}; it has {', '.join(info.splits)}."
            ) from error
        self._images = _names(info.features, self._tfds.features.Image)
        self._image = _image_feature(name, self._images)
        self._label, self.class_names = self._labels(info.features)
        self.identity = {"tfds": info.full_name, "split": self._split, "images": self.total}

    def items(self, place=None) -> Iterator[Item]:
        place = place or 0
        skip_decoding = self._tfds.decode.SkipDecoding()
        examples = self._builder.as_dataset(
            split=self._split,
            decoders={name: skip_decoding for name in self._images},
            shuffle_files=False,
            # One file after another, for a deterministic order.
            read_config=self._tfds.ReadConfig(
                interleave_cycle_length=1, add_tfds_id=True, try_autocache=False
            ),
        )
        examples = examples.skip(place).as_numpy_iterator()
        for number, example in enumerate(examples, start=place + 1):
            yield self._item(number, example)

    def _item(self, number, example):
        name = example.pop("tfds_id").decode("utf-8", "replace")
        content = example.pop(self._image)
        label = example.pop(self._label, None)
        label = int(label) if label is not None and label >= 0 else None
        meta = {key: value for key, value in example.items() if key not in self._images}
        return Item(name, content, number, label, bounded(meta))

    def _labels(self, features):
        """(name of the label feature or None, class names or None)."""
        labels = _names(features, self._tfds.features.ClassLabel)
        if "label" not in labels:
            return None, None
        return "label", list(features["label"].names) or None


def split_name(text) -> tuple[str, str]:
    """("mnist:3.0.1", "test") for "tfds:mnist:3.0.1:test"; the split defaults to "train"."""
    match = _FORM.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is not of the form tfds:NAME or tfds:NAME:SPLIT.")
    return match["name"], match["split"] or _DEFAULT_SPLIT


def _names(features, kind):
    return [name for name, feature in features.items() if isinstance(feature, kind)]


def _image_feature(name, images):
    if "image" in images:
        return "image"
    if len(images) != 1:
        found = ", ".join(images) or "none"
        raise ConfigError(
            f"{name} needs a feature `image` or a single image feature; its image features are "
            f"{found}."
        )
    return images[0]


def _import_tfds():
    try:
        import importlib_resources  # noqa: F401  # an undeclared dependency of the next import
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ConfigError(
            f"{PREFIX} needs a package that is not installed ({error}); run `pip install "
            f"tensorflow-datasets importlib-resources`."
        ) from error
    return tfds
