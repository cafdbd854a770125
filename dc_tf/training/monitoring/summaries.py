"""What TensorBoard shows of a run: one writer of event files, on the chief.

    summaries = Summaries(run.summaries, from_step=1200)     # events after step 1200 are dropped
    summaries.describe(experiment)                           # once a run
    summaries.scalars(1250, {"loss": 3.2})
    summaries.clustering(1250, values, counts, sheet)

Tags are the names of `docs/metrics.md`. A process appends one file, so that readers of TensorBoard,
which take the files of a folder one after the other, miss nothing; a resumed run first removes from
the earlier files what it will write again. `cluster_pictures` draws.
"""

import glob
import io
import os

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tensorflow.core.util.event_pb2 import Event

from dc_tf import atomic
from dc_tf.data.storage.tfrecord import frame, scan
from dc_tf.errors import DataError
from dc_tf.experiment import to_yaml

SETTINGS = "experiment"  # tag of the text with all settings
_QUALITY = 80  # of JPEG


class Summaries:
    """Appends events of one run.

    Args:
        folder: of the event files; made when something is written.
        from_step: of a resumed run, the global step of its checkpoint.
    """

    def __init__(self, folder: str, from_step: int):
        self._folder = folder
        self._tags = drop_after(folder, from_step)
        self._writer = None

    def describe(self, experiment) -> None:
        """Writes all settings, as a text and as hyper-parameters, unless they are there."""
        if SETTINGS in self._tags:
            return
        with self._opened().as_default(0):
            tf.summary.text(SETTINGS, _indented(to_yaml(experiment)))
            _write_hyperparameters(experiment)
        self._tags.add(SETTINGS)
        self._writer.flush()

    def scalars(self, step: int, values: dict) -> None:
        """Writes {tag: number}; None is left out."""
        with self._opened().as_default(step):
            for tag, value in values.items():
                if value is not None:
                    tf.summary.scalar(tag, value)
        self._writer.flush()

    def clustering(self, step: int, values: dict, counts: dict, sheet=None) -> None:
        """Writes what is known of a clustering.

        Args:
            step: global step.
            values: {name: number}; the tags are "clustering/NAME".
            counts: {level: (k,) images of each cluster}; the tags are "clustering/sizes/LEVEL".
            sheet: PIL image of some clusters, or None; the tag is "clustering/images".
        """
        self.scalars(step, {f"clustering/{name}": value for name, value in values.items()})
        with self._opened().as_default(step):
            for level, sizes in counts.items():
                tf.summary.histogram(f"clustering/sizes/{level}", np.asarray(sizes, np.float64))
            if sheet is not None:
                _write_image("clustering/images", sheet)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; a later write opens another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _opened(self):
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._folder)
        return self._writer


def drop_after(folder: str, step: int) -> set[str]:
    """Removes the events after a step from all files in a folder, and records that are cut short.

    Returns:
        The tags of the events that stay.
    """
    tags = set()
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*tfevents*"))):
        if path.endswith(atomic.staged_file("")):  # of a process that was killed here
            os.remove(path)
            continue
        try:
            kept, dropped = _parted(path, step)
        except (DataError, DecodeError) as error:
            logging.warning("%s is corrupt and is left as it is: %s", path, error)
            continue
        found = {value.tag for event, _ in kept for value in event.summary.value}
        tags |= found
        if dropped and not found:
            os.remove(path)
        elif dropped:
            payloads = b"".join(frame(payload) for _, payload in kept)
            atomic.write_file(path, lambda file, payloads=payloads: file.write(payloads))
    return tags


def hyperparameters(experiment) -> dict:
    """{dotted name: number, bool or text} of all settings; lists that are no stages as text."""
    found = {}
    _flatten("", experiment.as_dict(), found)
    return found


def _parted(path, step):
    """([(Event, bytes)] up to a step, whether there are others or damaged ones)."""
    kept, dropped = [], False
    for _, payload, fault in scan(path):
        event = Event() if fault else Event.FromString(payload)
        if fault or event.step > step:
            dropped = True
        else:
            kept.append((event, payload))
    return kept, dropped


def _write_hyperparameters(experiment):
    try:
        from tensorboard.plugins.hparams import api
    except ImportError as error:
        logging.info("no hyper-parameters for TensorBoard: %s", error)
        return
    api.hparams(hyperparameters(experiment))


def _flatten(prefix, value, found):
    if isinstance(value, dict):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}" if prefix else name, item, found)
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            _flatten(f"{prefix}[{number}]", item, found)
    elif isinstance(value, bool | int | float | str):
        found[prefix] = value
    else:
        found[prefix] = str(list(value) if isinstance(value, list | tuple) else value)


def _write_image(tag, image):
    """As `tf.summary.image`, but as a JPEG, which is a fraction of its PNG."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=_QUALITY)
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data={"plugin_name": "images"}, data_class="DATA_CLASS_BLOB_SEQUENCE"
    )
    size = [str(side).encode() for side in image.size]
    tf.summary.write(tag, tf.constant([*size, file.getvalue()]), metadata=metadata)


def _indented(text):
    """A block of code in Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())
