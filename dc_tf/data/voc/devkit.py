"""Image sets in the format of PASCAL VOC: images, XML annotations, lists of names.

    trainval, test = read_splits("VOCdevkit", ("trainval", "test"))
    trainval.presence()          # (n, classes) int8: 1 present, 0 absent, -1 only difficult objects

The folder is VOC2007, or a parent of it or of another folder with JPEGImages, Annotations and
ImageSets/Main. Classes are those of the files ImageSets/Main/CLASS_SPLIT.txt, or, without such
files, all that the annotations name. All files are checked before anything is computed; an error
names the file that is missing or invalid.

Reference: Everingham et al. 2010, and its development kit for 2007.
"""

import concurrent.futures
import dataclasses
import os
import re
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image

from dc_tf import text_files
from dc_tf.data.storage.files import open_binary
from dc_tf.data.voc import annotations
from dc_tf.errors import ConfigError, DataError

VOC2007 = "VOC2007"
MAX_PIXELS = 100_000_000
_PARTS = ("JPEGImages", "Annotations", "ImageSets/Main")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_READERS = 8  # concurrent reads, to hide network latency


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: (n, 4) float32 top, left, bottom, right in pixels, inside the image.
        classes: (n,) int32.
        difficult: (n,) bool.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


@dataclasses.dataclass(frozen=True)
class VocSplit:
    """The images that a list of ImageSets/Main names, in its order.

    Attributes:
        path: folder of the image set.
        name: of the list.
        classes: names of the classes.
        images: paths of the image files.
        sizes: (n, 2) int32 height and width in pixels.
        objects: tuple of Objects, one an image.
    """

    path: str
    name: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    sizes: np.ndarray
    objects: tuple[Objects, ...]

    def __len__(self):
        return len(self.images)

    def presence(self) -> np.ndarray:
        """(n, classes) int8: 1 if the image has a non-difficult object of the class, -1 if it has
        only difficult ones, which the evaluation ignores, else 0.
        """
        labels = np.zeros((len(self), len(self.classes)), np.int8)
        for label, objects in zip(labels, self.objects, strict=True):
            label[objects.classes] = -1
            label[objects.classes[~objects.difficult]] = 1
        return labels


def read_splits(path: str, names) -> list[VocSplit]:
    """Reads image sets of one folder; class numbers are the same in all of them.

    Raises:
        ConfigError: the folder holds no image set, or has no list of that name.
        DataError: a list, an annotation or an image is missing or invalid.
    """
    folder = find_folder(path)
    lists = {name: _read_list(folder, name) for name in names}
    known = _classes_of_lists(folder)
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        every = sorted({image for images in lists.values() for image in images})
        found = dict(
            zip(every, readers.map(lambda image: _read_image(folder, image), every), strict=True)
        )
    classes = known or tuple(sorted({o.name for _, _, objects in found.values() for o in objects}))
    if not classes:
        raise DataError(f"no annotation of {folder} has an object.")
    return [_split(folder, name, images, found, classes) for name, images in lists.items()]


def list_length(path: str, name: str) -> int:
    """Number of images in a list of an image set; reads only the list.

    Raises:
        ConfigError, DataError: as `read_splits`.
    """
    return len(_read_list(find_folder(path), name))


def find_folder(path: str) -> str:
    """The folder with JPEGImages, Annotations and ImageSets/Main: `path` or one inside it.

    Raises:
        ConfigError: there is none, or more than one and none is called VOC2007.
    """
    path = os.path.expanduser(path)
    if _is_image_set(path):
        return path
    inside = tf.io.gfile.listdir(path) if tf.io.gfile.isdir(path) else []
    folders = [os.path.join(path, name.rstrip("/")) for name in sorted(inside)]
    folders = [folder for folder in folders if _is_image_set(folder)]
    preferred = [folder for folder in folders if os.path.basename(folder) == VOC2007]
    if len(preferred or folders) != 1:
        what = f"holds {len(folders)} folders" if folders else "neither is nor holds a folder"
        raise ConfigError(
            f"{path!r} {what} with {', '.join(_PARTS)}; name the one of a VOC development kit, "
            f"such as VOCdevkit/{VOC2007}."
        )
    return (preferred or folders)[0]


def _is_image_set(path):
    return all(tf.io.gfile.isdir(os.path.join(path, part)) for part in _PARTS)


def _lists_in(folder):
    names = tf.io.gfile.listdir(os.path.join(folder, "ImageSets/Main"))
    return sorted(name[: -len(".txt")] for name in names if name.endswith(".txt"))


def _classes_of_lists(folder):
    """Names CLASS of files CLASS_SPLIT.txt whose SPLIT.txt is there as well."""
    names = _lists_in(folder)
    plain = [name for name in names if "_" not in name]
    pattern = re.compile(f"(.+)_({'|'.join(map(re.escape, plain))})$")
    matches = [pattern.match(name) for name in names] if plain else []
    return tuple(sorted({match[1] for match in matches if match}))


def _read_list(folder, name):
    names = _lists_in(folder)
    if name not in names:
        plain = [other for other in names if "_" not in other] or names
        raise ConfigError(
            f"{folder} has no image set {name!r} (ImageSets/Main/{name}.txt); it has "
            f"{', '.join(plain) or 'none'}."
        )
    path = os.path.join(folder, "ImageSets/Main", f"{name}.txt")
    with open_binary(path) as file:
        text = text_files.decode(file.read(), path)
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    for line in lines:
        if not re.fullmatch(r"[\w.-]+", line) or line.startswith("."):
            raise DataError(f"{path} names {line!r}; expected a file's name without a suffix.")
    if not lines:
        raise DataError(f"{path} names no image.")
    if len(set(lines)) != len(lines):
        raise DataError(f"{path} names an image twice.")
    return lines


def _read_image(folder, name):
    """(path, (height, width), objects of its annotation)."""
    stem = os.path.join(folder, "JPEGImages", name)
    path = next((stem + s for s in _SUFFIXES if tf.io.gfile.exists(stem + s)), None)
    if path is None:
        raise DataError(f"the image {stem}{_SUFFIXES[0]} is missing.")
    size = _image_size(path)
    annotation_path = os.path.join(folder, "Annotations", f"{name}.xml")
    if not tf.io.gfile.exists(annotation_path):
        raise DataError(f"the annotation {annotation_path} is missing.")
    try:
        with open_binary(annotation_path) as file:
            annotation = annotations.parse(file.read(annotations.MAX_BYTES + 1))
    except ValueError as error:
        raise DataError(
            f"the annotation {annotation_path} {error}; unpack the development kit again."
        ) from error
    if all(annotation.size) and annotation.size != size:
        stated, real = (f"{width}x{height}" for height, width in (annotation.size, size))
        raise DataError(f"{annotation_path} is of an image of {stated} pixels; {path} has {real}.")
    return path, size, annotation.objects


def _image_size(path):
    try:
        with open_binary(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image {path} cannot be read ({error}); unpack the development kit again."
        ) from error
    if width * height > MAX_PIXELS:
        raise DataError(f"the image {path} has {width}x{height} pixels, more than {MAX_PIXELS}.")
    return height, width


def _split(folder, name, images, found, classes):
    numbers = {class_name: number for number, class_name in enumerate(classes)}
    paths, sizes, objects = zip(*(found[image] for image in images), strict=True)
    for image, boxes in zip(images, objects, strict=True):
        unknown = sorted({o.name for o in boxes} - set(classes))
        if unknown:
            raise DataError(
                f"the annotation of {image} in {folder} has the class {unknown[0]!r}, which has no "
                f"file ImageSets/Main/CLASS_SPLIT.txt; those that exist are for "
                f"{', '.join(classes)}."
            )
    sizes = np.array(sizes, np.int32)
    objects = tuple(
        _arrays(boxes, numbers, size) for boxes, size in zip(objects, sizes, strict=True)
    )
    return VocSplit(folder, name, classes, paths, sizes, objects)


def _arrays(objects, numbers, size):
    boxes = np.array([o.box for o in objects], np.float32).reshape(-1, 4)
    return Objects(
        np.clip(boxes, 0, np.tile(size, 2)),
        np.array([numbers[o.name] for o in objects], np.int32),
        np.array([o.difficult for o in objects], bool),
    )
