"""Times the SVMs of `low_shot` in one process and in one for each core, taking turns.

    python benchmarks/low_shot.py --repeats=5

Both predict the same classes. Starting the processes is counted in the first repeat only, which the
line therefore gives apart. One JSON line: seconds, and the ratio of the medians.
"""

import json
import statistics
import time

import numpy as np
from absl import app, flags

from dc_tf.data.storage.processes import cores
from dc_tf.evaluation.frozen.features import directions
from dc_tf.evaluation.frozen.svm import classify_all, end_processes

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 960, "Images of the largest fit.")
flags.DEFINE_integer("dim", 1024, "Dimensions of a feature.")
flags.DEFINE_integer("classes", 10, "Number of classes.")
flags.DEFINE_integer("fits", 20, "Fits of a repeat, of falling size.")
flags.DEFINE_integer("repeats", 5, "Repeats of each of the two.")


def main(_) -> None:
    problems, unknown = make_problems()
    seconds = {1: [], cores(): []}
    predicted = {}
    for _ in range(FLAGS.repeats):
        for processes in seconds:
            start = time.perf_counter()
            found = dict(classify_all(iter(problems), unknown, 1.0, processes))
            seconds[processes].append(time.perf_counter() - start)
            predicted[processes] = found
    end_processes()
    one, all_cores = (statistics.median(times) for times in seconds.values())
    for place, classes in predicted[1].items():
        np.testing.assert_array_equal(classes, predicted[cores()][place])
    result = {"processes": cores(), "one_s": one, "all_s": all_cores, "ratio": one / all_cores}
    result["first_s"] = seconds[cores()][0]
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


def make_problems() -> tuple[list, np.ndarray]:
    """Classes around random centres, so that the solver ends as soon as on features of images."""
    random = np.random.default_rng(0)
    labels = np.arange(FLAGS.images) % FLAGS.classes
    centres = random.standard_normal((FLAGS.classes, FLAGS.dim), np.float32)
    noise = random.standard_normal((FLAGS.images, FLAGS.dim), np.float32)
    features = directions(centres[labels] + 3 * noise, 0.0)
    unknown = random.standard_normal((FLAGS.images, FLAGS.dim), np.float32)
    sizes = np.linspace(FLAGS.images, FLAGS.images // 8, FLAGS.fits).astype(int)
    return [(i, features[:n], labels[:n]) for i, n in enumerate(sizes)], directions(unknown, 0.0)


if __name__ == "__main__":
    app.run(main)
