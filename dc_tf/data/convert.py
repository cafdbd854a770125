"""Images from anywhere to a data set: in parallel, in a fixed order, and whatever the files are.

    convert("photos", "/data/photos", labels_from_folders=True)
    convert("list.csv", "/data/photos", drop_duplicates=True)

Every item of the source (see `sources`) becomes a row or a line of `rejected.jsonl` ({"path",
"reason"}), in the order of the source, whatever the number of processes. A conversion that was
stopped, even killed, goes on where its last finished shard ends when it is called again, and ends
with the same bytes as an undisturbed one.
"""

import base64
import functools
import itertools
import json
import os

from absl import logging

from dc_tf import pulse
from dc_tf.data.sources import image_files
from dc_tf.data.sources.digests import Digests
from dc_tf.data.sources.open import open_source
from dc_tf.data.storage import files
from dc_tf.data.storage.files import same_place
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.processes import map_lists
from dc_tf.data.storage.staging import Staging, check_output, is_begun
from dc_tf.data.storage.writer import DatasetWriter, is_finished
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

REJECTED = "rejected.jsonl"
FORMATS = ("keep", "jpeg", "png")
_CHUNK = 16  # items sent to a process at a time
_CHUNK_BYTES = 8 << 20


def convert(
    input,
    output,
    labels_from_folders=False,
    max_short_side=None,
    format="keep",
    quality=92,
    max_pixels=100_000_000,
    drop_duplicates=False,
    drop_blank=False,
    rows_per_shard=None,
    workers=None,
    overwrite=False,
    tfds_data_dir=None,
    progress=True,
):
    """Converts all images of a source; or goes on with what an earlier call began.

    Args:
        input: folder, list, tar files or TensorFlow data set; see `sources.open_source`.
        output: folder of the data set.
        labels_from_folders: whether the first-level sub-folder is the class. Files beside the
            sub-folders have no label.
        max_short_side: pixels; images with a longer short side are made smaller. None: no bound.
        format: "jpeg", "png", or "keep": PNG stays PNG and everything else becomes JPEG.
        quality: of the JPEGs that are written. Clean RGB JPEGs are passed through unchanged.
        max_pixels: images whose header announces more are rejected without decoding.
        drop_duplicates: whether an image is rejected that has the same size and pixels, after all
            that is done to them, as one before it.
        drop_blank: whether an image of a single colour is rejected.
        rows_per_shard: see DatasetWriter.
        workers: processes; None: one for each core.
        overwrite: whether to replace a data set in `output`, and to drop the unfinished one of
            another source or other settings.
        tfds_data_dir: where TensorFlow data sets are kept; None: their own default.
        progress: whether to show progress.

    Returns:
        dict: output, rows, rejected, classes (None without), rejected_list (path).

    Raises:
        ConfigError: a setting that cannot work, a missing input, an output that is in use, or one
            that was begun from another source or with other settings.
        DataError: not one usable image, or a list that cannot be read.
        Preempted: the process was asked to stop.
    """
    rules = _rules(format, max_short_side, max_pixels, quality, drop_duplicates, drop_blank)
    input, output = os.fspath(input), os.fspath(output)
    if same_place(input, output):
        raise ConfigError(f"Input and output are both {input}; give another output.")
    if not is_begun(output):  # else what is there decides, when the source is known
        check_output(output, overwrite)
    source = open_source(input, labels_from_folders, output, tfds_data_dir, progress)
    job = {
        "made_by": "dc_tf convert",
        "source": source.identity,
        "labels_from_folders": labels_from_folders,
        "short_side": max_short_side,
        "format": format,
        "quality": quality,
        "max_pixels": max_pixels,
        "drop_duplicates": drop_duplicates,
        "drop_blank": drop_blank,
        "rows_per_shard": rows_per_shard,
    }
    if is_finished(output, job) and not overwrite:
        logging.warning("%s is complete already; --overwrite makes it anew.", output)
        Staging(output, job, overwrite=True).discard()  # a kill may have left this undone
    else:
        with DatasetWriter(output, source.class_names, rows_per_shard, overwrite, job) as writer:
            _Conversion(source, writer, rules).run(input, workers, progress)
    return _result(output)


class _Conversion:
    """One conversion in progress.

    Attributes:
        rejected: int, items without a row so far, those of earlier calls among them.
    """

    def __init__(self, source, writer, rules):
        self._source = source
        self._writer = writer
        self._rules = rules
        self._seen = Digests() if rules.digest else None
        self._place, self._items, self.rejected = None, 0, 0
        # Of the shard that is being written:
        self._new_rejected, self._new_digests, self._new_items = [], [], 0

    def run(self, input, workers, progress):
        self._take_up()
        with Progress(self._source.total, "convert", "images", enabled=progress) as bar:
            bar.skip(self._items)
            for item, cleaned in self._cleaned(workers):
                self._take(item, cleaned)
                bar.update(1, rejected=self.rejected)
                pulse.stop_if_asked("the shards that are finished are kept")
        self._close_shard()
        if not self._writer.rows:
            reason = self._nothing_usable(input)
            self._writer.discard()
            raise DataError(reason)
        self._write_rejected()

    def _take_up(self):
        """Goes to where an earlier call came to."""
        digests = []
        for note in self._writer.notes():
            self._place = note["place"]
            self._items += note["items"]
            self.rejected += len(note["rejected"])
            digests.append(base64.b64decode(note["digests"]))
        if self._seen is not None:
            self._seen.extend(b"".join(digests), first_row=0)

    def _cleaned(self, workers):
        """Yields (item, Cleaned) in order; only items with content go through a process."""
        items, sent = itertools.tee(self._source.items(self._place))
        chunks = _chunks(item.content for item in sent if item.reason is None)
        outcomes = map_lists(
            functools.partial(image_files.clean_all, rules=self._rules),
            chunks,
            workers,
            initializer=image_files.silence,
            crashed=lambda _: image_files.Cleaned(None, "its decoder crashed or ran out of memory"),
            weight=_bytes_of,
        )
        for item in items:
            yield item, next(outcomes) if item.reason is None else None

    def _take(self, item, cleaned):
        reason = item.reason or cleaned.reason
        if reason is None and self._seen is not None:
            first = self._seen.add(cleaned.digest, self._writer.rows)
            reason = None if first is None else f"duplicate of row {first}"
        if reason is None:
            self._writer.write(cleaned.encoded, item.label, item.name, item.meta)
            self._new_digests.append(cleaned.digest)
        else:
            self._new_rejected.append([item.name, reason])
            self.rejected += 1
        self._place = item.place
        self._new_items += 1
        if self._writer.is_full:
            self._close_shard()

    def _close_shard(self):
        if not self._new_items:
            return
        self._writer.close_shard(
            {
                "place": self._place,
                "items": self._new_items,
                "rejected": self._new_rejected,
                "digests": base64.b64encode(b"".join(self._new_digests)).decode(),
            }
        )
        self._new_rejected, self._new_digests, self._new_items = [], [], 0

    def _write_rejected(self):
        lines = (
            json.dumps({"path": path, "reason": reason}) + "\n"
            for note in self._writer.notes()
            for path, reason in note["rejected"]
        )
        self._writer.write_file(REJECTED, lines)

    def _nothing_usable(self, input):
        rejected = [line for note in self._writer.notes() for line in note["rejected"]]
        if not rejected:
            return f"{input} holds no files; give a folder of images, or a list of them."
        path, reason = rejected[0]
        return (
            f"None of the {len(rejected)} files in {input} is a usable image; the first, {path}: "
            f"{reason}."
        )


def _chunks(contents):
    """Lists of at most `_CHUNK` contents and, but for the last of them, `_CHUNK_BYTES`."""
    chunk = []
    for content in contents:
        chunk.append(content)
        if len(chunk) == _CHUNK or _bytes_of(chunk) >= _CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _bytes_of(contents):
    return sum(len(content) for content in contents)


def _result(output):
    dataset = Dataset.open(output)
    path = os.path.join(output, REJECTED)
    with files.opened(path, "r") as file:
        rejected = sum(1 for _ in file)
    return {
        "output": output,
        "rows": dataset.rows,
        "rejected": rejected,
        "classes": len(dataset.class_names) if dataset.class_names else None,
        "rejected_list": path,
    }


def _rules(format, max_short_side, max_pixels, quality, drop_duplicates, drop_blank):
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; use one of {', '.join(FORMATS)}.")
    if max_short_side is not None and max_short_side < 1:
        raise ConfigError(f"short_side is {max_short_side}; it must be at least 1 pixel.")
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}; it must be at least 1.")
    if not 1 <= quality <= 95:
        raise ConfigError(f"quality is {quality}; JPEG quality is 1 to 95.")
    return image_files.Rules(
        format, max_short_side, max_pixels, quality, drop_duplicates, drop_blank
    )
