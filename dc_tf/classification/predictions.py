"""Predictions of a classifier on the labelled rows of a data set, which workers share.

found = predict_rows(network, split, short_side=256, batch_size=64, comm=world)
found.prediction, found.probability, found.top5      # of every row, on every worker
write_predictions(found, split, names, "predictions.parquet")       # on the chief
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.curation.tables import TableWriter
from dc_tf.data.storage.reader import data_errors
from dc_tf.data.storage.row_sources import sources_of
from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.errors import DataError
from dc_tf.evaluation.finetune.train import NOT_FINITE
from dc_tf.progress import Progress

COLUMNS = {
    "row": "int64",
    "source": "string",
    "label": "string",
    "prediction": "string",
    "probability": "float32",
}
_WRITTEN_AT_ONCE = 10_000  # rows


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier says of the rows of a split, in their order.

    Attributes:
        prediction: (n,) int64, class with the largest probability.
        probability: (n,) float64, that probability.
        top5: share of the rows whose label is among the five most probable classes.
    """

    prediction: np.ndarray
    probability: np.ndarray
    top5: float


def predict_rows(network, split, short_side, batch_size, comm) -> Predictions:
    """Classifies the centre crops of a split.

    Args:
        network: ClassifierNetwork of this process, the same on all workers.
        split: splits.Split.
        short_side: pixels of the short side before the crop.
        batch_size: images at a time, of each worker.
        comm: Communicator of the workers; all make the call.

    Raises:
        DataError: an image cannot be read, or a probability is not finite.
    """
    own = row_block(len(split.rows), comm.rank, comm.size)
    classify = tf.function(network, reduce_retracing=True, autograph=False)
    found, labels = np.zeros((len(own), 3)), split.labels[own]
    images = split.images(batch_size, network.settings["resolution"], short_side, own)
    done = 0
    shown = Progress(len(own), "predict", "images", enabled=comm.rank == 0)
    with data_errors(), shown as progress:
        for batch in images if len(own) else ():
            logits = classify(batch)["logits"].numpy()
            part = slice(done, done + len(logits))
            found[part] = _columns(logits, labels[part])
            done += len(logits)
            progress.update(len(logits))
    prediction, probability, above = gather_rows(found, own, len(split.rows), comm).T
    if not np.isfinite(probability).all():
        raise DataError(NOT_FINITE)
    return Predictions(prediction.astype(np.int64), probability, float(np.mean(above < 5)))


def write_predictions(found: Predictions, split, names, path) -> None:
    """Writes a line for each row: its id, the name of its file, label, prediction, probability.

    Args:
        found: Predictions of the split.
        split: splits.Split; names are read from the records.
        names: of the classes, by number.
        path: .parquet, .csv or .json.
    """
    names = np.array(names, object)
    with (
        TableWriter(path, COLUMNS) as table,
        Progress(len(split.rows), "write predictions", "rows") as progress,
    ):
        for start in range(0, len(split.rows), _WRITTEN_AT_ONCE):
            part = slice(start, start + _WRITTEN_AT_ONCE)
            rows = split.rows[part]
            table.write(
                {
                    "row": rows,
                    "source": sources_of(split.reader.dataset, rows),
                    "label": names[split.labels[part]],
                    "prediction": names[found.prediction[part]],
                    "probability": found.probability[part].astype(np.float32),
                }
            )
            progress.update(len(rows))


def _columns(logits, labels):
    """(n, 3): prediction, its probability, and how many classes are above the label."""
    prediction = logits.argmax(1)
    largest = logits.max(1)
    probability = 1 / np.exp(logits.astype(np.float64) - largest[:, None]).sum(1)
    above = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    return np.stack([prediction, probability, above], 1)
