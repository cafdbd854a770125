"""Measures the input pipeline beside other input pipelines, on the same photographs.

    python benchmarks/input.py --images=PHOTOS --output=benchmarks/results/input.json

random       ours, as training uses it: rows in random order through a RowReader, only the crop
             decoded, resized, flipped, rotated.
sequential   the same shards from start to end with `tf.data.TFRecordDataset`, the same functions.
full_decode  as random, but the whole image is decoded and then cropped.
torch        PyTorch's DataLoader with Pillow and a process for each core, from the files.
keras        `image_dataset_from_directory` of Keras: whole images decoded, resized and flipped.
jitter, greyscale, blur, solarise
             as random, and this change of every image (the jitter of 4 in 5), at SimCLR's strength.
photometric  as random, with all of them in SimCLR's probabilities.
views        as photometric, 2 views of 224 pixels and 6 of 96 (SwAV's); the JPEG is decoded once.
views_by_window
             as views, but the window of each view is decoded by itself.
remote       as random, but the shards are read through `tf.io.gfile` like remote ones, and each
             record is delayed by --delay_ms.

The photographs are converted at full size. Methods take turns, each in a process of its own with a
warm-up. CPU time is user plus system time of a process and its children; `others` is the share of
the cores that other programs used meanwhile. The images are in the page cache.
"""

import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import typing
from collections.abc import Iterable
from unittest import mock

import numpy as np
from absl import app, flags
from processes import last_lines, show

if typing.TYPE_CHECKING:
    from dc_tf.data.storage.manifest import Dataset

FLAGS = flags.FLAGS
PHOTOMETRIC = {
    "jitter": dict(jitter=1.0),
    "greyscale": dict(greyscale=1.0),
    "blur": dict(blur=1.0),
    "solarise": dict(solarise=1.0),
    "photometric": dict(jitter=1.0, greyscale=0.2, blur=0.5),
}
METHODS = (
    *("random", "sequential", "full_decode", "torch", "remote", "keras"),
    *PHOTOMETRIC,
    *("views", "views_by_window"),
)
BATCH = 32
MIN_AREA, MAX_RATIO = 0.08, 4 / 3
CORES = len(os.sched_getaffinity(0))
# More than any method reads.
DRAWS = 500_000
flags.DEFINE_string("images", None, "Folder of photographs.", required=True)
flags.DEFINE_list("methods", list(METHODS[:5]), f"What to measure, of {', '.join(METHODS)}.")
flags.DEFINE_integer("size", 224, "Side of the crops, in pixels.")
flags.DEFINE_integer("rounds", 5, "How often all methods take turns.")
flags.DEFINE_float("seconds", 8.0, "Of one turn, after the warm-up.")
flags.DEFINE_float("warm_up", 3.0, "Seconds.")
flags.DEFINE_float("delay_ms", 30.0, "Of each record that `remote` reads.")
flags.DEFINE_string("output", None, "JSON of all results.")
flags.DEFINE_string("data", None, "Internal: the data set of a child process.")


def main(_) -> None:
    if FLAGS.data:
        print(json.dumps(turn(FLAGS.methods[0])))
        return
    unknown = set(FLAGS.methods) - set(METHODS)
    if unknown:
        sys.exit(f"--methods has {', '.join(unknown)}; there are {', '.join(METHODS)}.")
    methods = list(FLAGS.methods)
    if "torch" in methods and importlib.util.find_spec("torch") is None:
        methods.remove("torch")
        print("PyTorch is not installed, so it is left out.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        about = converted(data)
        turns = {method: [] for method in methods}
        for _ in range(FLAGS.rounds):
            for method in methods:
                turns[method] += last_lines([command(method, data)])
                show({"method": method} | turns[method][-1])
    results = about | {"methods": summary(turns), "ratios": ratios(turns), "turns": turns}
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    print(json.dumps(results))


def converted(data) -> dict:
    """Converts the photographs; returns facts about them."""
    from dc_tf.data.convert import convert
    from dc_tf.data.storage.reader import RowReader

    rows = convert(FLAGS.images, data, rows_per_shard=64, progress=False)["rows"]
    dataset = opened(data)
    _, entries = dataset.locate(np.arange(rows))
    examples = RowReader(dataset).examples(range(rows))
    with open(paths_of(data), "w", encoding="utf-8") as file:
        json.dump([os.path.join(FLAGS.images, example["source"]) for example in examples], file)
    return {
        "images": rows,
        "mean_kb": round(float(entries[:, 1].mean()) / 1e3, 1),
        "cores": CORES,
        "size": FLAGS.size,
        "batch": BATCH,
    }


def command(method, data) -> list[str]:
    return [
        sys.executable,
        os.path.abspath(__file__),
        f"--images={FLAGS.images}",
        f"--methods={method}",
        f"--size={FLAGS.size}",
        f"--seconds={FLAGS.seconds}",
        f"--warm_up={FLAGS.warm_up}",
        f"--delay_ms={FLAGS.delay_ms}",
        f"--data={data}",
    ]


def summary(turns) -> dict:
    """Medians of the turns of each method."""
    return {
        method: {
            name: round(statistics.median(turn[name] for turn in of_method), 3)
            for name in of_method[0]
        }
        for method, of_method in turns.items()
    }


def ratios(turns) -> dict:
    """Ratios of ours to each other method, by wall and by CPU time; medians over rounds."""

    def over(name, other):
        pairs = zip(turns["random"], turns[other], strict=True)
        return [ours[name] / theirs[name] for ours, theirs in pairs]

    return {
        f"random_over_{other}": {
            name: round(statistics.median(over(name, other)), 3)
            for name in ("images_per_second", "images_per_cpu_second")
        }
        for other in turns
        if "random" in turns and other != "random"
    }


def turn(method) -> dict:
    """Measures one method once."""
    if method in PHOTOMETRIC:
        batches = iter(random_batches(PHOTOMETRIC[method]))
    else:
        batches = iter(globals()[f"{method}_batches"]())
    run_for(batches, FLAGS.warm_up)
    cpu, machine, begin = own_cpu_seconds(), machine_cpu_seconds(), time.perf_counter()
    images = run_for(batches, FLAGS.seconds)
    wall = time.perf_counter() - begin
    cpu, machine = own_cpu_seconds() - cpu, machine_cpu_seconds() - machine
    return {
        "images_per_second": images / wall,
        "images_per_cpu_second": images / cpu,
        "cpu_ms_per_image": 1e3 * cpu / images,
        "cpu_share": cpu / (CORES * wall),
        "others": max(0.0, machine - cpu) / (CORES * wall),
    }


def run_for(batches, seconds) -> int:
    """Number of images read in `seconds`."""
    images, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        next(batches)
        images += BATCH
    return images


# Methods.


def random_batches(photometric=None, **views) -> Iterable:
    """Batches as training uses them, with settings of Photometric and Views."""
    from dc_tf.data.input.draws import Draws
    from dc_tf.data.input.photometric import Photometric
    from dc_tf.data.input.pipeline import training_batches
    from dc_tf.data.input.views import Views
    from dc_tf.data.storage.reader import RowReader

    dataset, random = opened(FLAGS.data), np.random.default_rng(0)
    draws = Draws(
        row=random.integers(0, dataset.rows, DRAWS),
        rotation=random.integers(0, 4, DRAWS, np.int32),
        super_id=np.zeros(DRAWS, np.int32),
        sub_id=np.zeros(DRAWS, np.int32),
        seed=random.integers(0, 2**31 - 1, (DRAWS, 2), np.int32),
    )
    return training_batches(
        RowReader(dataset),
        draws,
        BATCH,
        FLAGS.size,
        MIN_AREA,
        MAX_RATIO,
        photometric=Photometric(**photometric or {}),
        views=Views(**views),
    )


def views_batches() -> Iterable:
    return random_batches(PHOTOMETRIC["photometric"], global_views=2, local_views=6, local_size=96)


def views_by_window_batches() -> Iterable:
    from dc_tf.data.input import augment

    def crop(encoded, *args):
        return augment.random_resized_crop(encoded, *args)

    # What the views are cut from is then the encoded image itself.
    with (
        mock.patch.object(augment, "decode", lambda encoded: encoded),
        mock.patch.object(augment, "random_crop_of_pixels", crop),
    ):
        return views_batches()


def sequential_batches() -> Iterable:
    import tensorflow as tf

    from dc_tf.data.input import augment

    dataset = opened(FLAGS.data)
    name = dataset.features.image

    def prepare(place, record):
        example = tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature([], tf.string)})
        seed = tf.stack([place, place + 1])
        image = augment.random_resized_crop(example[name], FLAGS.size, seed, MIN_AREA, MAX_RATIO)
        return augment.rotate(image, tf.cast(place, tf.int32))

    shards = [dataset.shard_path(number) for number in range(len(dataset.shards))]
    records = tf.data.TFRecordDataset(shards).repeat().enumerate()
    images = records.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(BATCH, drop_remainder=True).prefetch(2)


def full_decode_batches() -> Iterable:
    import tensorflow as tf

    from dc_tf.data.input import augment

    def decode_window(encoded, choose):
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        shape = tf.shape(image)
        top, left, height, width = tf.unstack(choose(shape[0], shape[1]))
        return image[top : top + height, left : left + width]

    with mock.patch.object(augment, "_decode_window", decode_window):
        return random_batches()


def torch_batches() -> Iterable:
    import torch
    from PIL import Image

    class Photographs(torch.utils.data.Dataset):
        """RandomResizedCrop, a flip and a quarter turn, as torchvision makes them with Pillow."""

        def __init__(self, paths):
            self._paths = paths

        def __len__(self):
            return len(self._paths)

        def __getitem__(self, index):
            draw = torch.rand(2 * 10 + 2).tolist()
            with Image.open(self._paths[index]) as file:
                image = file.convert("RGB")
            box = random_box(*image.size, draw)
            image = image.resize((FLAGS.size, FLAGS.size), Image.BILINEAR, box=box)
            if torch.rand(()) < 0.5:
                image = image.transpose(Image.FLIP_LEFT_RIGHT)
            pixels = np.rot90(np.asarray(image), int(torch.randint(4, ()))).transpose(2, 0, 1)
            return torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)

    with open(paths_of(FLAGS.data), encoding="utf-8") as file:
        photographs = Photographs(json.load(file))
    order = torch.utils.data.RandomSampler(photographs, replacement=True, num_samples=DRAWS)
    return torch.utils.data.DataLoader(
        photographs, BATCH, sampler=order, num_workers=CORES, drop_last=True
    )


def keras_batches() -> Iterable:
    import tensorflow as tf

    size = (FLAGS.size, FLAGS.size)
    images = tf.keras.utils.image_dataset_from_directory(
        FLAGS.images, labels=None, batch_size=None, image_size=size
    )
    images = images.map(tf.image.random_flip_left_right, num_parallel_calls=CORES)
    return images.repeat().batch(BATCH, drop_remainder=True).prefetch(2)


def remote_batches() -> Iterable:
    import tensorflow as tf

    from dc_tf.data.storage import reader

    class Slow(tf.io.gfile.GFile):
        def read(self, n=-1):
            time.sleep(FLAGS.delay_ms / 1e3)
            return super().read(n)

    tf.io.gfile.GFile = Slow  # for good, as files are opened later; this process ends with its turn
    with mock.patch.object(reader, "is_local", lambda path: False):
        return random_batches()


def random_box(width, height, draw) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the first of ten random crops that fits, or the image."""
    for area, shape in zip(draw[:10], draw[10:20], strict=True):
        area = width * height * (MIN_AREA + (1 - MIN_AREA) * area)
        ratio = MAX_RATIO ** (2 * shape - 1)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw[20] * (width - w + 1)), int(draw[21] * (height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def opened(data) -> "Dataset":
    from dc_tf.data.storage.manifest import Dataset

    return Dataset.open(data)


def paths_of(data) -> str:
    """Path of the list of source files, so that all methods read the same photographs."""
    return data + "-paths.json"


# CPU time.


def own_cpu_seconds() -> float:
    """CPU seconds of this process and its running children."""
    children = multiprocessing.active_children()
    return time.process_time() + sum(ticks(f"/proc/{child.pid}/stat", 13, 15) for child in children)


def machine_cpu_seconds() -> float:
    """CPU seconds of all programs, user and system."""
    return ticks("/proc/stat", 1, 4) + ticks("/proc/stat", 6, 8)


def ticks(path, start, stop) -> float:
    """The sum of some fields of the first line, in seconds."""
    with open(path, encoding="utf-8") as file:
        fields = file.readline().split()[start:stop]
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    app.run(main)
