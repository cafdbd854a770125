"""Writes a VOC split as TFRecords in the detection format of tf-models-official.

    paths = write_records(split, "/scratch/train", shards=8)

Boxes are in [0, 1]; class ids start at 1, since 0 is the background; difficult objects are marked
as crowds, which training leaves out. `image/source_id` is the image's index in the split.
"""

import os

import tensorflow as tf


def write_records(split, prefix: str, shards=1, places=None) -> list[str]:
    """Writes `prefix-00000-of-00008.tfrecord` and so on.

    Args:
        split: VocSplit.
        prefix: path and beginning of the file names.
        shards: number of files.
        places: indices of the images to write; None for all.

    Returns:
        Paths of the files.
    """
    places = range(len(split)) if places is None else places
    tf.io.gfile.makedirs(os.path.dirname(prefix))
    paths = [f"{prefix}-{i:05}-of-{shards:05}.tfrecord" for i in range(shards)]
    for shard, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for place in places[shard::shards]:
                writer.write(_example(split, place).SerializeToString())
    return paths


def _example(split, place):
    objects, (height, width) = split.objects[place], split.sizes[place]
    top, left, bottom, right = objects.boxes.T
    with tf.io.gfile.GFile(split.images[place], "rb") as file:
        encoded = file.read()
    features = {
        "image/encoded": _bytes(encoded),
        "image/source_id": _bytes(str(place).encode()),
        "image/height": _ints([height]),
        "image/width": _ints([width]),
        "image/object/bbox/ymin": _floats(top / height),
        "image/object/bbox/xmin": _floats(left / width),
        "image/object/bbox/ymax": _floats(bottom / height),
        "image/object/bbox/xmax": _floats(right / width),
        "image/object/class/label": _ints(objects.classes + 1),
        "image/object/is_crowd": _ints(objects.difficult),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def _bytes(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _ints(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(v) for v in values]))


def _floats(values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(v) for v in values]))
