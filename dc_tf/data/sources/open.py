"""Opens a folder, a list, tar files or a TensorFlow data set as an image source.

source = open_source("photos", labels_from_folders=True)
source.class_names, source.total
for item in source.items():
    item.name, item.content, item.label, item.meta
"""

from dc_tf.data.sources import lists, tars
from dc_tf.data.sources import tfds as tfds_source
from dc_tf.data.sources.folder import FolderSource
from dc_tf.data.sources.item import Source
from dc_tf.data.storage import files
from dc_tf.data.storage.files import expand
from dc_tf.errors import ConfigError


def open_source(
    input, labels_from_folders=False, skip=None, tfds_data_dir=None, progress=True
) -> Source:
    """Opens a source of any kind.

    Args:
        input: folder; CSV, TSV or JSONL file (`lists`); tar files, as a path or pattern (`tars`);
            or "tfds:NAME" (`tfds`).
        labels_from_folders: whether the first-level sub-folder is the class.
        skip: folder to leave out if it is inside the input.
        tfds_data_dir: folder of TensorFlow data sets; None: the default of tensorflow-datasets.
        progress: whether to show progress while listing.

    Raises:
        ConfigError: the input does not exist, or is of no known kind.
        DataError: a list cannot be read.
    """
    is_folder = not input.startswith(tfds_source.PREFIX) and files.is_folder(input)
    if labels_from_folders and not is_folder:
        raise ConfigError(f"labels_from_folders needs a folder as input; {input} is not one.")
    if is_folder:
        return FolderSource(input, labels_from_folders, skip, progress)
    if input.startswith(tfds_source.PREFIX):
        return tfds_source.TfdsSource(input, tfds_data_dir)
    paths = expand(input)
    missing = [path for path in paths if not files.exists(path)]
    if missing or not paths:
        reason = f"{missing[0]} is missing" if missing else "no file matches"
        raise ConfigError(f"the input {input} does not exist: {reason}.")
    if len(paths) == 1 and paths[0].endswith(lists.SUFFIXES):
        return lists.open_list(paths[0], progress)
    if all(tars.is_tar(path) for path in paths):
        return tars.TarSource(paths)
    raise ConfigError(
        f"the input {input} is neither a folder, a list ({', '.join(lists.SUFFIXES)}), tar files "
        f"nor {tfds_source.PREFIX}NAME."
    )
