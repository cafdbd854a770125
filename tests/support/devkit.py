"""A small VOCdevkit of striped patches on noise, drawn by the tests that need one."""

import io
import zipfile

import numpy as np
import pictures
import real_data
from PIL import Image

CLASSES = ("across", "down")  # which way the stripes run


def draw(
    folder, counts, size=(40, 56), seed=0, class_lists=True, objects=(1, 3), sides=(1 / 3, 1 / 2)
):
    """Draws `VOC2007` into a folder; returns the folder.

    Args:
        counts: {split: number of images}.
        size: (height, width) of the images in pixels.
        class_lists: whether to write ImageSets/Main/CLASS_SPLIT.txt.
        objects: least and most objects of an image; every fourth is difficult.
        sides: least and most side of an object, as a share of the image's height.
    """
    random = np.random.default_rng(seed)
    for split, count in counts.items():
        names = [f"{split}{number:04}" for number in range(count)]
        present = [_draw_image(folder, name, size, objects, sides, random) for name in names]
        write_list(folder, split, names)
        for label in CLASSES if class_lists else ():
            signs = (
                f"{n} {1 if label in p else -1:2}" for n, p in zip(names, present, strict=True)
            )
            write_list(folder, f"{label}_{split}", signs)
    return folder


def write_list(folder, name, lines):
    text = "".join(f"{line}\n" for line in lines)
    return pictures.write(folder, f"VOC2007/ImageSets/Main/{name}.txt", text)


def write_annotation(folder, name, objects, size, extra=""):
    """Objects: (name, (xmin, ymin, xmax, ymax) as VOC counts, difficult)."""
    height, width = size
    parts = [f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{extra}"]
    for label, corners, difficult in objects:
        box = "".join(
            f"<{tag}>{value}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        parts.append(
            f"<object><name>{label}</name><difficult>{int(difficult)}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    text = f"<annotation>{''.join(parts)}</annotation>"
    return pictures.write(folder, f"VOC2007/Annotations/{name}.xml", text)


def cells(folder):
    """Unpacks the real images of cells; returns the folder."""
    with zipfile.ZipFile(real_data.archive("voc_cells.zip")) as archive:
        archive.extractall(folder)
    return folder


def _draw_image(folder, name, size, objects, sides, random):
    height, width = size
    pixels = random.integers(60, 120, (height, width, 3), np.uint8)
    drawn = []
    for _ in range(random.integers(objects[0], objects[1] + 1)):
        label = CLASSES[random.integers(2)]
        side = round(height * random.uniform(*sides))
        top, left = random.integers(0, (height - side + 1, width - side + 1))
        stripes = np.where(np.arange(side) % 4 < 2, 20, 235)
        patch = np.broadcast_to(stripes[:, None] if label == "across" else stripes, (side, side))
        pixels[top : top + side, left : left + side] = patch[..., None]
        box = (left + 1, top + 1, left + side, top + side)
        drawn.append((label, box, random.random() < 0.25))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    pictures.write(folder, f"VOC2007/JPEGImages/{name}.jpg", file.getvalue())
    write_annotation(folder, name, drawn, size)
    return {label for label, _, difficult in drawn if not difficult}
