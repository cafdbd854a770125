"""Pictures of a clustering for TensorBoard: images of some clusters, centroids for the projector.

    sheet = contact_sheet(assignments, reader)                       # a PIL image
    write_projector(run.summaries, "stage-01-round-0003", model, assignments, reader)

Both read a bounded number of records, whatever the size of the run: 64 for the sheet, 1,024 for the
projector.
"""

import io
import math
import os
import shutil
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from dc_tf import atomic
from dc_tf.data.inspection import joined_tiles, tile
from dc_tf.data.storage import schema
from dc_tf.data.storage.metadata import text

SHEET_CLUSTERS, SHEET_IMAGES = 8, 8
MOST_CENTROIDS = 1024  # in the projector: those with the most images
SPRITE = 48  # pixels
FOLDER, CONFIG = "projector", "projector_config.pbtxt"  # the second is TensorBoard's name
_READ_AT_ONCE = 128  # records


def contact_sheet(assignments, reader) -> Image.Image:
    """Images of some clusters of the lowest level, a line for each.

    The lines are evenly spaced in the order of sizes, the largest first; the images of a line
    evenly spaced in its rows. Above a file's name stands "CLUSTER/SUB rROW".

    Args:
        assignments: Assignments.
        reader: RowReader of the data set.
    """
    flat = assignments.flat()
    counts = np.bincount(flat)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    tiles = []
    for label in order[_spread(len(order), SHEET_CLUSTERS)]:
        members = np.flatnonzero(flat == label)
        rows = members[_spread(len(members), SHEET_IMAGES)]
        place = _place(label, assignments)
        for row, example in zip(rows.tolist(), examples(reader, rows), strict=True):
            tiles.append(tile(f"{place} r{row}", example, reader.dataset.class_names))
        tiles += [None] * (SHEET_IMAGES - len(rows))
    return joined_tiles(tiles, SHEET_IMAGES)


def write_projector(folder, name, model, assignments, reader) -> int:
    """Writes the centroids of a round for the projector, in place of those of an earlier round.

    Args:
        folder: of the event files.
        name: of the round.
        model: ClusterModel of the round.
        assignments: Assignments of the round.
        reader: RowReader of the data set.

    Returns:
        Number of centroids: those of the sub-clusters, or of the clusters without them, with the
        most images, at most `MOST_CENTROIDS`.
    """
    counts = model.counts.ravel()
    labels = largest(counts, MOST_CENTROIDS)
    if not len(labels):
        return 0
    rows = nearest_rows(labels, assignments.flat(), model.nearness())
    found = list(examples(reader, rows))
    path = os.path.join(folder, FOLDER, name)
    staging = atomic.stage_folder(path)
    centroids = _centroids(model, labels)
    centroids.tofile(os.path.join(staging, "centroids.bytes"))
    with open(os.path.join(staging, "centroids.tsv"), "w", encoding="utf-8") as file:
        file.write("cluster\timages\trow\tsource\n")
        for label, row, example in zip(labels, rows.tolist(), found, strict=True):
            source = text(example["source"]) if example else ""
            file.write(f"{_place(label, assignments)}\t{counts[label]}\t{row}\t{source}\n")
    _sprites(found).save(os.path.join(staging, "sprites.jpg"), "JPEG", quality=80)
    atomic.commit_folder(path, last="sprites.jpg")
    atomic.write_text(os.path.join(folder, CONFIG), _config(name, centroids.shape))
    for other in os.listdir(os.path.join(folder, FOLDER)):
        if other != name:
            shutil.rmtree(os.path.join(folder, FOLDER, other), ignore_errors=True)
    return len(labels)


def largest(counts, most: int) -> np.ndarray:
    """Ascending labels of the `most` clusters with the most images, none without any."""
    order = np.argsort(-counts, kind="stable")[: min(most, np.count_nonzero(counts))]
    return np.sort(order)


def nearest_rows(labels, flat, nearness) -> np.ndarray:
    """The row nearest to the centroid of each of some clusters.

    Args:
        labels: (n,) ascending labels, each with a row.
        flat: (N,) label of each row.
        nearness: (N, 2) float32 of `ClusterModel.nearness`; None takes the first row of each.
    """
    place = np.full(max(int(flat.max()), int(labels[-1])) + 1, -1, np.int32)
    place[labels] = np.arange(len(labels))
    rows = np.flatnonzero(place[flat] >= 0)
    places = place[flat[rows]]
    if nearness is not None:
        least = np.full(len(labels), np.inf, np.float32)
        np.minimum.at(least, places, nearness[rows, 0])
        is_least = nearness[rows, 0] == least[places]
        rows, places = rows[is_least], places[is_least]
    _, first = np.unique(places, return_index=True)
    return rows[first]


def examples(reader, rows) -> Iterator[dict | None]:
    """Yields the decoded example of each row, None if it is corrupt; reads many at once."""
    for start in range(0, len(rows), _READ_AT_ONCE):
        for record in reader.read(rows[start : start + _READ_AT_ONCE], corrupt=b""):
            try:
                yield schema.decode_example(record, reader.dataset.features)
            except ValueError:
                yield None


def _spread(count, most):
    """At most `most` evenly spaced numbers below `count`."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _place(label, assignments):
    """The text "CLUSTER/SUB", or the cluster alone where there are no others on its level."""
    cluster, sub = divmod(int(label), assignments.sub_clusters)
    return f"{cluster}/{sub}" if assignments.sub_clusters > 1 else str(cluster)


def _centroids(model, labels):
    """(n, dim) float32."""
    if not model.sub_centroids:
        return np.ascontiguousarray(model.super_centroids[labels], np.float32)
    sub_clusters = model.counts.shape[1]
    chosen = [model.sub_centroids[label // sub_clusters][label % sub_clusters] for label in labels]
    return np.array(chosen, np.float32)


def _sprites(found):
    columns = math.ceil(math.sqrt(len(found)))
    rows = -(-len(found) // columns)
    sheet = Image.new("RGB", (columns * SPRITE, rows * SPRITE), "white")
    for number, example in enumerate(found):
        row, column = divmod(number, columns)
        if (image := _thumbnail(example)) is not None:
            sheet.paste(image, (column * SPRITE, row * SPRITE))
    return sheet


def _thumbnail(example):
    """The middle of an image, `SPRITE` pixels a side; None of one that cannot be decoded."""
    try:
        with Image.open(io.BytesIO(example["encoded"])) as image:
            image.draft("RGB", (2 * SPRITE, 2 * SPRITE))  # a JPEG at a part of its size
            return ImageOps.fit(image.convert("RGB"), (SPRITE, SPRITE))
    except Exception:  # Pillow raises any exception on a corrupt image; its place stays white.
        return None


def _config(name, shape):
    """Of TensorBoard's projector, as text of a protocol buffer."""
    folder = f"{FOLDER}/{name}"
    return (
        "embeddings {\n"
        f'  tensor_name: "centroids of {name}"\n'
        f"  tensor_shape: {shape[0]}\n"
        f"  tensor_shape: {shape[1]}\n"
        f'  tensor_path: "{folder}/centroids.bytes"\n'
        f'  metadata_path: "{folder}/centroids.tsv"\n'
        "  sprite {\n"
        f'    image_path: "{folder}/sprites.jpg"\n'
        f"    single_image_dim: {SPRITE}\n"
        f"    single_image_dim: {SPRITE}\n"
        "  }\n"
        "}\n"
    )
