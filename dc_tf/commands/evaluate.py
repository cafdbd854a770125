"""Measures what was learned: k-NN and linear classifiers on frozen features, and clusters.

knn, linear_probe, low_shot: layer by layer, on data sets with labels. An untrained network of the
same shape is measured beside the model, since on small images random features go a long way.
`--protocol=paper` is the paper's; `--protocol=small` caches standardised features of centre crops
and takes minutes on a CPU.

nmi: how much the clusters of every round of a run agree with labels, hashtags and other metadata.
"""

import dataclasses
import json
import os

from absl import flags

from dc_tf.errors import ConfigError

TASKS = ("knn", "linear_probe", "low_shot", "nmi")
PROTOCOLS = ("paper", "small")

FLAGS = flags.FlagValues()


def _define(kind, name, default, text, **options):
    return getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=FLAGS, **options)


TASK = _define("string", "task", None, f"One of {', '.join(TASKS)}.", required=True)
MODEL = _define("string", "model", None, "SavedModel or run folder.", required=True)
STAGE = _define("string", "stage", "", "Of a run: take it as it was when this stage ended.")
TRAIN = _define(
    "string", "train", None, "Labelled data set to learn from. nmi: the run's, if it has moved."
)
TEST = _define("string", "test", None, "Labelled data set to measure on.")
LAYER = _define("list", "layer", ["all"], "conv1..conv13, fc6, fc7, comma-separated, or 'all'.")
OUTPUT = _define("string", "output", None, "JSON file for the result.")
RANDOM_INIT = _define("bool", "random_init", True, "Measure an untrained network beside it.")
COMPUTE_DTYPE = _define(
    "string", "compute_dtype", "float32", "Or bfloat16: products of the frozen network."
)
RESIZE = _define("integer", "resize", None, "Pixels of the short side before the centre crop.")
SEED = _define("integer", "seed", 0, "Of the untrained network, classifiers and augmentation.")
SCRATCH = _define(
    "string", "scratch", None, "Folder for features that memory cannot hold (the system's own)."
)
BATCH_SIZE = _define("integer", "batch_size", 256, "Images at a time.")
TEMPERATURE = _define("float", "temperature", 0.07, "knn: of the votes.")
CELLS = _define(
    "integer", "cells", 2, "knn, low_shot: maps are averaged over so many parts each way."
)
PROTOCOL = _define("string", "protocol", "paper", "linear_probe: paper or small.")
EPOCHS = _define("integer", "epochs", None, "linear_probe: instead of the protocol's.")
LEARNING_RATE = _define("float", "learning_rate", None, "linear_probe: the same for all layers.")
AUGMENT = _define("bool", "augment", None, "linear_probe: new random crops in each epoch.")
STANDARDIZE = _define("bool", "standardize", None, "linear_probe: mean 0, deviation 1.")
SHOTS = _define(
    "list", "shots", ["1", "2", "4", "8", "16", "32", "64", "96"], "low_shot: images of a class."
)
DRAWS = _define("integer", "draws", 5, "low_shot: how often images are drawn.")
SVM_COST = _define("float", "svm_cost", 1.0, "low_shot: C of the linear SVM.")
COLUMNS = _define(
    "list", "columns", [], "nmi: label, place, or names of metadata; all that there are by default."
)
MAX_ROWS = _define("integer", "max_rows", 1_000_000, "nmi: images whose metadata is read.")
CELL_DEGREES = _define("float", "cell_degrees", 1.0, "nmi: side of the cell that is a place.")
MAX_FEATURES = _define("integer", "max_features", None, "linear_probe: bound on dimensions.")


def run() -> dict:
    if TASK.value not in TASKS:
        raise ConfigError(f"--task is {TASK.value!r}; use one of {', '.join(TASKS)}.")
    result = {"task": TASK.value, "model": MODEL.value}
    result |= _of_clusters() if TASK.value == "nmi" else _of_layers()
    if OUTPUT.value:
        import tensorflow as tf

        with tf.io.gfile.GFile(OUTPUT.value, "w") as f:
            f.write(json.dumps(result, indent=1) + "\n")
    return result


def _of_layers() -> dict:
    for name, flag in (("train", TRAIN), ("test", TEST)):
        if not flag.value:
            raise ConfigError(f"--{name} is missing; give a data set with labels.")
    # After the flags are known to be right, since TensorFlow takes seconds to import.
    from dc_tf.evaluation.features import parse_layers
    from dc_tf.evaluation.models import open_model
    from dc_tf.evaluation.splits import open_splits
    from dc_tf.evaluation.tasks import measure, table

    layers = parse_layers(LAYER.value)
    task, protocol = _protocol()
    train, test = open_splits(TRAIN.value, TEST.value)
    subject = _with_resize(open_model(MODEL.value, _compute_dtype(), STAGE.value))
    result = measure(task, subject, train, test, layers, protocol, RANDOM_INIT.value, SEED.value)
    print(table(TASK.value, result), flush=True)
    return {"train": TRAIN.value, "test": TEST.value, **result}


def _of_clusters() -> dict:
    from dc_tf import experiment
    from dc_tf.data.manifest import Dataset
    from dc_tf.evaluation import nmi
    from dc_tf.run_dir import RunDir

    if MAX_ROWS.value < 1 or CELL_DEGREES.value <= 0:
        raise ConfigError(
            f"--max_rows is {MAX_ROWS.value} and --cell_degrees is {CELL_DEGREES.value}; use "
            "positive numbers."
        )
    run = RunDir(MODEL.value)
    if not os.path.isdir(run.clusterings):
        raise ConfigError(f"--model={MODEL.value} is not a run that has made clusters.")
    dataset = Dataset.open(TRAIN.value or experiment.load([run.config]).data.path)
    columns = nmi.read_columns(dataset, COLUMNS.value, MAX_ROWS.value, CELL_DEGREES.value)
    found = nmi.evaluate(run, columns)
    print(nmi.table(found), flush=True)
    return {"train": dataset.path, "rows": len(columns.rows), "clusterings": found}


def _protocol():
    """The task's module and its settings from the flags."""
    from dc_tf.evaluation import knn, linear_probe, low_shot

    if TASK.value == "low_shot":
        return low_shot, low_shot.Protocol(
            shots=_shots(),
            draws=DRAWS.value,
            cost=SVM_COST.value,
            cells=CELLS.value,
            batch_size=BATCH_SIZE.value,
            scratch=SCRATCH.value,
            seed=SEED.value,
        )
    if TASK.value == "knn":
        return knn, knn.Protocol(
            temperature=TEMPERATURE.value,
            cells=CELLS.value,
            batch_size=BATCH_SIZE.value,
            scratch=SCRATCH.value,
        )
    if PROTOCOL.value not in PROTOCOLS:
        raise ConfigError(f"--protocol is {PROTOCOL.value!r}; use one of {', '.join(PROTOCOLS)}.")
    base = linear_probe.SMALL if PROTOCOL.value == "small" else linear_probe.Protocol()
    given = {
        "epochs": EPOCHS.value,
        "batch_size": BATCH_SIZE.value,
        "learning_rate": LEARNING_RATE.value,
        "augment": AUGMENT.value,
        "standardize": STANDARDIZE.value,
        "max_features": MAX_FEATURES.value,
        "seed": SEED.value,
        "scratch": SCRATCH.value,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return linear_probe, dataclasses.replace(base, **changes)


def _shots():
    try:
        return tuple(int(shots) for shots in SHOTS.value)
    except ValueError as error:
        raise ConfigError(f"--shots is {','.join(SHOTS.value)}; use whole numbers.") from error


def _compute_dtype():
    known = ("float32", "bfloat16")
    if COMPUTE_DTYPE.value not in known:
        raise ConfigError(
            f"--compute_dtype is {COMPUTE_DTYPE.value!r}; use one of {', '.join(known)}."
        )
    return COMPUTE_DTYPE.value


def _with_resize(subject):
    if RESIZE.value is None:
        return subject
    if RESIZE.value < subject.resolution:
        raise ConfigError(
            f"--resize is {RESIZE.value}; the network's crop needs at least {subject.resolution}."
        )
    return dataclasses.replace(subject, short_side=RESIZE.value)
