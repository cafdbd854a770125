"""Classifies images: the rows of a data set, or image files that nobody converted.

    found = predict("CLASSIFIER/model", images="holiday/", output="found.csv")
    found["images"], found["predicted"]              # 120, {"beach": 80, "forest": 40}
    predict("CLASSIFIER/model", data=DATA)["predictions"]       # without a file: the lines

Each line is of one image, in the order of the rows or files; of one that cannot be used it has the
reason in place of a prediction. The SavedModel does all the work (`classify_files`), so another
program that calls it gets the same numbers.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from dc_tf import paths
from dc_tf.curation.tables import TableWriter, check_table_path
from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.data.sources.open import open_source
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.processes import cores
from dc_tf.data.storage.reader import CorruptRow, RowReader
from dc_tf.distributed import stop_request
from dc_tf.distributed.task import require_alone
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.no_model import check_exists
from dc_tf.progress import Progress

COLUMNS = {
    "row": "int64",
    "source": "string",
    "label": "string",
    "prediction": "string",
    "probability": "float32",
    "reason": "string",
}


class Image(NamedTuple):
    """An image to classify.

    Attributes:
        row: row id of the data set; of files, their number from 0.
        source: name of the file; None of a record that cannot be read, which has it.
        label: name of its class, where that is known, or None.
        encoded: bytes of a JPEG or PNG; None if it cannot be used.
        reason: why it cannot be used, or None.
    """

    row: int
    source: str | None
    label: str | None = None
    encoded: bytes | None = None
    reason: str | None = None


def predict(model: str, data=None, images=None, output=None, top=1, batch_size=64) -> dict:
    """Classifies all images; `help(dc_tf.predict)` describes it.

    Raises:
        ConfigError: a model without classes, not one of `data` and `images`, or an output that
            cannot be made.
        DataError: a data set or model that cannot be used; or no image can be used.
        Preempted: the process was asked to stop; nothing is written.
    """
    require_alone("predict")
    _check_given(data, images, output, top, batch_size)
    check_exists(model)
    names = class_names_of(model_folder(model))
    top = min(top, len(names))
    total, found = _of_data(data) if data is not None else _of_files(images)
    lines = Lines(names, top)
    with contextlib.ExitStack() as end:
        progress = end.enter_context(Progress(total, "predict", "images"))
        end.enter_context(stop_request.signals_handled())
        classify = _loaded(model_folder(model))
        table = output and end.enter_context(TableWriter(output, columns(top)))
        for batch in _batches(found, batch_size):
            lines.add(batch, _probabilities(classify, batch), table)
            progress.update(len(batch))
            stop_request.raise_if_requested("nothing is written before the end")
        if not lines.classified:
            raise DataError(_nothing(images if data is None else data, lines))
    return {"model": model, "output": output, **lines.summary()}


def model_folder(model: str) -> str:
    """The folder of the SavedModel: `model`, or in the output folder of `dc_tf finetune`."""
    inside = os.path.join(model, "model")
    has_own = os.path.exists(os.path.join(model, "saved_model.pb"))
    return inside if not has_own and os.path.isdir(inside) else model


def class_names_of(folder: str) -> list[str]:
    """Names of the classes of an exported classifier.

    Raises:
        ConfigError: the folder holds no model of ours, or one without classes.
        DataError: its metadata cannot be read.
    """
    from dc_tf.exporting.metadata import read_metadata

    names = read_metadata(folder).classes
    if not names:
        raise ConfigError(
            f"--model={folder} has features and no classes; `dc_tf finetune --model={folder} "
            "--train=DATA --test=TEST --output=CLASSIFIER` makes a classifier of it."
        )
    return names


def columns(top: int) -> object:
    """The columns of the table, as `TableWriter` takes them: a dict or a pyarrow.Schema."""
    if top == 1:
        return COLUMNS
    import pyarrow

    several = [
        ("top", pyarrow.list_(pyarrow.string())),
        ("top_probabilities", pyarrow.list_(pyarrow.float32())),
    ]
    one = [(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    return pyarrow.schema([*one, *several])


class Lines:
    """The lines of the table, and counts over all of them.

    Args:
        names: of the classes.
        top: most probable classes in a line.

    Attributes:
        classified: images with a prediction.
    """

    def __init__(self, names, top):
        self.classified = 0
        self._names, self._top = names, top
        self._kept = []
        self._predicted = collections.Counter()
        self._reasons = collections.Counter()
        self._labelled = self._hits = 0

    def add(self, batch, probabilities, table) -> None:
        """Adds images with their probabilities, (classes,) or a reason; keeps lines without table.

        Args:
            batch: list of Image.
            probabilities: list of arrays; a str is the reason of an image that cannot be used.
            table: TableWriter or None.
        """
        lines = [self._line(*pair) for pair in zip(batch, probabilities, strict=True)]
        if table is None:
            self._kept += lines
        elif lines:
            table.write({name: [line[name] for line in lines] for name in lines[0]})

    def summary(self) -> dict:
        """Counts; `predictions` where no table was written."""
        images = self.classified + sum(self._reasons.values())
        found = {
            "images": images,
            "unusable": images - self.classified,
            "reasons": dict(self._reasons.most_common()),
            "classes": len(self._names),
            "predicted": dict(self._predicted.most_common()),
            "labelled": self._labelled,
            "top1": self._hits / self._labelled if self._labelled else None,
        }
        return found | ({"predictions": self._kept} if self._kept else {})

    def _line(self, image, found):
        line = {"row": image.row, "source": image.source, "label": image.label}
        if isinstance(found, str):
            self._reasons[found] += 1
            line |= {"prediction": None, "probability": None, "reason": found}
            return line | ({"top": None, "top_probabilities": None} if self._top > 1 else {})
        order = (-found).argsort(kind="stable")[: self._top].tolist()
        best = self._names[order[0]]
        self._count(image.label, best)
        line |= {"prediction": best, "probability": float(found[order[0]]), "reason": None}
        if self._top > 1:
            line["top"] = [self._names[number] for number in order]
            line["top_probabilities"] = found[order].tolist()
        return line

    def _count(self, label, prediction):
        self.classified += 1
        self._predicted[prediction] += 1
        if label is not None:
            self._labelled += 1
            self._hits += label == prediction


def as_text(found) -> str:
    """A few lines for a terminal."""
    predicted = found["predicted"].items()
    lines = [f"{name:<24} {count:>10,}" for name, count in itertools.islice(predicted, 20)]
    if len(predicted) > 20:
        lines.append(f"and {len(predicted) - 20} classes more")
    lines.append(f"{found['images']:,} images, {found['unusable']:,} cannot be used")
    if found["labelled"]:
        lines.append(f"{100 * found['top1']:.2f} % of {found['labelled']:,} with labels correct")
    return "\n".join(lines)


def _check_given(data, images, output, top, batch_size):
    if (data is None) == (images is None):
        raise ConfigError("give --data=DATA, a data set, or --images=IMAGES, a folder or files.")
    for name, number in (("top", top), ("batch_size", batch_size)):
        if number < 1:
            raise ConfigError(f"--{name}={number}; use 1 or more.")
    if output is not None:
        check_table_path(paths.expand(output))


def _loaded(folder):
    """Function of (n,) encoded images to (n, classes) probabilities."""
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)

    def classify(encoded):
        return loaded.classify_files(tf.constant(encoded))["probabilities"].numpy()

    return classify


def _probabilities(classify, batch):
    """Of each image its (classes,) probabilities, or the reason why it has none."""
    usable = [image.encoded for image in batch if image.encoded is not None]
    found = iter(_of_usable(classify, usable))
    return [next(found) if image.encoded is not None else image.reason for image in batch]


def _of_usable(classify, encoded):
    import tensorflow as tf

    if not encoded:
        return []
    try:
        return list(classify(encoded))
    except tf.errors.InvalidArgumentError:
        if len(encoded) == 1:
            return ["it cannot be decoded"]
    # One by one, to find which.
    return [_of_usable(classify, [image])[0] for image in encoded]


def _of_data(path) -> tuple[int, Iterator[Image]]:
    dataset = path if isinstance(path, Dataset) else Dataset.open(path)
    names = dataset.class_names
    reader = RowReader(dataset)

    def read(row):
        try:
            example = reader.examples([row])[0]
        except CorruptRow as error:
            return Image(row, None, reason=str(error))
        label = example["label"]
        return Image(row, example["source"], _name(names, label), example["encoded"])

    return dataset.rows, _ahead(read, range(dataset.rows))


def _of_files(given) -> tuple[int | None, Iterator[Image]]:
    source = open_source(paths.expand(given))
    names = source.class_names

    def cleaned(pair):
        row, item = pair
        label = _name(names, item.label)
        if item.reason:
            return Image(row, item.name, label, reason=item.reason)
        encoded, reason, _ = clean(item.content, Rules())
        return Image(row, item.name, label, encoded, reason)

    return source.total, _ahead(cleaned, enumerate(source.items()))


def _ahead(function, items) -> Iterator:
    """`map` by a few threads, which work ahead by a few items: Pillow lets go of Python's lock."""
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(images, size):
    while batch := list(itertools.islice(images, size)):
        yield batch


def _name(names, label):
    if label is None or label < 0:
        return None
    return str(names[label]) if names is not None and label < len(names) else str(label)


def _nothing(path, lines):
    reasons = lines.summary()["reasons"]
    why = "; ".join(itertools.islice(reasons, 3)) or "there are none"
    return f"no image of {path} can be used: {why}."
