"""Makes and opens data sets."""

from __future__ import annotations

import os
import typing

from dc_tf.api.arguments import Path, takes_arguments
from dc_tf.distributed import stop_request

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from dc_tf.data.storage.manifest import Dataset


@takes_arguments()
def generate(
    output: Path,
    images: int = 4000,
    size: int = 64,
    seed: int = 0,
    split: str = "train",
    classes: int | None = None,
    rows_per_shard: int = 1000,
    overwrite: bool = False,
) -> dict:
    """Writes a data set of drawn pictures, to try things on.

    >>> dc_tf.generate("scenes", images=96)["rows"]
    96

    Args:
        output: folder of the data set.
        images: how many.
        size: pixels of a side.
        seed: the same seed, the same pictures.
        split: "train" or "test"; no picture is in both.
        classes: keep only this number of the most frequent; None takes all.
        rows_per_shard: rows of a file.
        overwrite: replace a data set that is there.

    Returns:
        dict of output, rows, shards and class_counts.

    Raises:
        ConfigError: a setting out of its range, or an output that is not empty.
    """
    from dc_tf.data.synthetic import generate as lib

    return lib.generate(
        os.fspath(output), images, size, seed, split, classes, rows_per_shard, overwrite=overwrite
    )


@takes_arguments()
def convert(
    input: Path,
    output: Path,
    *,
    labels_from_folders: bool = False,
    short_side: int | None = None,
    format: str = "keep",
    quality: int = 92,
    max_pixels: int = 100_000_000,
    drop_duplicates: bool = False,
    drop_blank: bool = False,
    rows_per_shard: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    tfds_data_dir: Path | None = None,
    split: str | None = None,
    encoding: str | None = None,
    value_range: tuple[float, float] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    to: str | None = None,
) -> dict:
    """Converts images to a data set: a folder, a list, zip, tar or Parquet files, or of TFDS.

    >>> made = dc_tf.convert("photos", "DATA", labels_from_folders=True, workers=1)
    >>> made["rows"], made["rejected"], dc_tf.open_dataset("DATA").class_names
    (4, 0, ('cats', 'dogs'))

    Args:
        input: folder with its sub-folders, or a zip file of one; CSV, TSV, JSONL or text file that
            lists images; tar files, Parquet or Arrow tables, or images, as a path or pattern; or
            "tfds:NAME:SPLIT".
        output: folder of the data set.
        labels_from_folders: first-level sub-folders are the classes.
        short_side: pixels; images with a longer short side are downscaled. None: no limit.
        format: "jpeg", "png", or "keep": PNG stays PNG, everything else becomes JPEG.
        quality: JPEG quality of re-encoded images, 1 to 95.
        max_pixels: images whose header states more are rejected without decoding.
        drop_duplicates: reject images with the same size and pixels as an earlier one;
            `find_duplicates` finds those that were compressed or scaled differently.
        drop_blank: reject images of a single colour.
        rows_per_shard: rows of a file; None: files of 256 MiB.
        workers: processes; None: one for each core. They import the main module again, so a script
            that asks for more than one needs `if __name__ == "__main__":`.
        overwrite: replace the data set in the output, or an unfinished one of other settings.
        tfds_data_dir: folder of TensorFlow data sets; None: their default.
        split: sub-folder of the folder or zip file to convert, such as "train"; None: all.
        encoding: of a list, and of the texts in tar files; None: UTF-8.
        value_range: (low, high) values of pixels of more than 8 bits that become black and white;
            None: from the file.
        image_column: of tables, with the images as bytes; None: the only one with bytes.
        label_column: of tables, with the labels; "": none; None: "label", else the only one whose
            class names the tables state.
        to: the other way: "webdataset" writes the data set `input` as tar files, "folder" as image
            files in a folder for each class; `rows_per_shard` are images of a tar.

    Returns:
        dict of output, rows, rejected, classes (their number, None without) and rejected_list (path
        of a file with a line for each image that could not be used). With `to`: output, rows,
        files.

    Raises:
        ConfigError: a setting that cannot work, a missing input, an output that is in use.
        DataError: not one usable image.
        Preempted: after Ctrl-C; the shards that are whole are kept.
    """
    from dc_tf.data.convert import convert as convert_images

    with stop_request.signals_handled():
        return convert_images(
            os.fspath(input),
            os.fspath(output),
            labels_from_folders=labels_from_folders,
            max_short_side=short_side,
            format=format,
            quality=quality,
            max_pixels=max_pixels,
            drop_duplicates=drop_duplicates,
            drop_blank=drop_blank,
            rows_per_shard=rows_per_shard,
            workers=workers,
            overwrite=overwrite,
            tfds_data_dir=tfds_data_dir,
            split=split,
            encoding=encoding,
            value_range=value_range,
            image_column=image_column,
            label_column=label_column,
            to=to,
        )


@takes_arguments()
def open_dataset(path: Path) -> Dataset:
    """Opens a data set of `convert` or `generate`, or of TFRecords that `dc_tf index` has indexed.

    >>> data = dc_tf.open_dataset("scenes")
    >>> data.rows, data.labels().shape, data.class_names[0]
    (96, (96,), 'tree')

    Args:
        path: its folder.

    Returns:
        Dataset: rows, class_names, labels() (rows,) int32 with -1 for none, fingerprint().

    Raises:
        DataError: the folder is missing, incomplete or corrupt.
    """
    from dc_tf.data.storage.manifest import Dataset

    return Dataset.open(path)


@takes_arguments()
def sources_of(data: Path | Dataset, rows: Sequence[int] | None = None) -> list[str | None]:
    """The file that each row of a data set was made of, without reading the images.

    >>> dc_tf.sources_of("scenes", [7, 0])
    ['generated/train/tree-0000007.jpg', 'generated/train/car-0000000.jpg']

    Args:
        data: data set folder, or one of `open_dataset`.
        rows: row ids, in any order, such as those of a cluster or of a selection; None takes all.

    Returns:
        list of str; "" where a record names no file, None where it is corrupt.

    Raises:
        DataError: a row that is not there, or data that cannot be read.
    """
    from dc_tf.data.storage import row_sources
    from dc_tf.data.storage.manifest import Dataset

    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    return row_sources.sources_of(dataset, range(dataset.rows) if rows is None else rows)
