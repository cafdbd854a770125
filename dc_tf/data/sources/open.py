"""Opens a folder, list, zip, tar or Parquet file, images or a TensorFlow data set as a source.

source = open_source("photos", labels_from_folders=True)
source.class_names, source.total
for item in source.items():
    item.name, item.content, item.label, item.meta
"""

from dc_tf.data.sources import encodings, image_files, lists, parquets, tars, zips
from dc_tf.data.sources import tfds as tfds_source
from dc_tf.data.sources.folder import FolderSource
from dc_tf.data.sources.item import Source
from dc_tf.data.sources.single_files import FilesSource
from dc_tf.data.storage import files
from dc_tf.data.storage.files import expand
from dc_tf.errors import ConfigError

_KINDS = (
    f"a folder, a list ({', '.join(lists.SUFFIXES)}), a zip file, tar files, Parquet or Arrow "
    f"tables, an image, or {tfds_source.PREFIX}NAME"
)


def open_source(
    input,
    labels_from_folders=False,
    skip=None,
    tfds_data_dir=None,
    progress=True,
    split=None,
    encoding=None,
    image_column=None,
    label_column=None,
) -> Source:
    """Opens a source of any kind.

    Args:
        input: folder; zip file (`zips`); CSV, TSV, JSONL or text file (`lists`); tar files
            (`tars`), Parquet or Arrow files (`parquets`) or images (`single_files`), as a path or
            pattern; or "tfds:NAME" (`tfds`).
        labels_from_folders: whether the first-level sub-folder is the class.
        skip: folder to leave out if it is inside the input.
        tfds_data_dir: folder of TensorFlow data sets; None: the default of tensorflow-datasets.
        progress: whether to show progress while listing.
        split: sub-folder of a folder or zip file to take instead of the whole, or None.
        encoding: of lists and of texts in tar files; None: UTF-8. A byte-order mark has
            precedence.
        image_column: of a table, with the images; None: the only one with bytes.
        label_column: of a table, with the labels; "": none; None: `label`, else the only one whose
            class names the table states.

    Raises:
        ConfigError: the input does not exist, or is of no known kind, or the settings do not fit.
        DataError: a list cannot be read.
    """
    encodings.check_encoding(encoding)
    columns = {"image_column": image_column, "label_column": label_column}
    source = _opened(
        input, labels_from_folders, skip, tfds_data_dir, progress, split, encoding, columns
    )
    given = [f"--{name}={value}" for name, value in columns.items() if value is not None]
    if given and not isinstance(source, parquets.ParquetSource):
        raise ConfigError(f"{given[0]} is for Parquet and Arrow tables; {input} is none.")
    return source


def _opened(input, labels_from_folders, skip, tfds_data_dir, progress, split, encoding, columns):
    if input.startswith(tfds_source.PREFIX):
        _check_no_folders(input, labels_from_folders, split)
        return tfds_source.TfdsSource(input, tfds_data_dir)
    if files.is_folder(input):
        return FolderSource(input, labels_from_folders, skip, progress, split)
    paths = [input] if files.exists(input) else expand(input)
    missing = [path for path in paths if not files.exists(path)]
    if missing or not paths:
        reason = f"{missing[0]} is missing" if missing else "no file matches"
        raise ConfigError(f"the input {input} does not exist: {reason}; give {_KINDS}.")
    if len(paths) == 1 and zips.is_zip(paths[0]):
        return zips.ZipSource(paths[0], labels_from_folders, split)
    _check_no_folders(input, labels_from_folders, split)
    if len(paths) == 1 and paths[0].lower().endswith(lists.SUFFIXES):
        return lists.open_list(paths[0], progress, encoding)
    if all(parquets.is_table(path) for path in paths):
        return parquets.ParquetSource(paths, *columns.values())
    if all(tars.is_tar(path) for path in paths):
        return tars.TarSource(paths, encoding)
    return _images(input, paths)


def _images(input, paths):
    """The source of image files; other files are only accepted beside images."""
    first = [path for path in paths[:16] if not files.is_folder(path)]
    if not any(image_files.is_image(path) for path in first):
        raise ConfigError(f"the input {input} is of no known kind; give {_KINDS}.")
    return FilesSource(path for path in paths if not files.is_folder(path))


def _check_no_folders(input, labels_from_folders, split):
    for name, value in (("labels_from_folders", labels_from_folders), ("split", split)):
        if value:
            raise ConfigError(f"{name} needs a folder or a zip file as input; {input} is neither.")
