"""Measures what was learned: frozen features, fine-tuning, retrieval, clusters.

    dc_tf evaluate --task=knn --model=MODEL --train=DATA --test=TEST --params_override=cells=1
    dc_tf evaluate --config_file=configs/evaluation/linear_probe_small.yaml --model=RUN ...

finetune, linear_probe, retrieval and both tasks on VOC have the paper's settings, and small ones
that take minutes on a CPU. --protocol=auto, the default, chooses by the size of the network and of
the data, and says which and why. A file of configs/evaluation names the task and its settings, and
precedes auto. Before the long part, the command measures for some seconds what it will cost.

Tasks that take labels measure an untrained network of the same shape beside the model, since on
small images random features go a long way. With TF_CONFIG, workers share the work.

knn, linear_probe, low_shot: classification by frozen layers.
finetune: classification by the whole network, trained on labels.
retrieval: finding images of the same object; takes folders of images.
voc07_classification, voc07_detection, and linear_probe with train_split and test_split: on the VOC
development kit that --train names.
nmi: how much the clusters of every round of a run, or of an output of `dc_tf kmeans`, agree with
labels, hashtags and other metadata.
"""

import contextlib
import json
import os

from absl import flags, logging

from dc_tf.commands.results import Result
from dc_tf.data.storage.files import same_place
from dc_tf.distributed import heartbeat, stop_request
from dc_tf.errors import ConfigError, DataError

FLAGS = flags.FlagValues()
_PICTURES = (".png", ".pdf", ".svg")
# Workers that do not watch one another may start so long after the first.
_JOIN_S = 600.0
_COMPUTE_DTYPES = ("auto", "float32", "bfloat16")


def _define(kind, name, default, text, **options):
    return getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=FLAGS, **options)


TASK = _define("string", "task", None, "Name of the task; not needed with a file that names it.")
CONFIG_FILE = _define(
    "multi_string", "config_file", [], "YAML file with the task's name and settings."
)
PROTOCOL = _define(
    "string",
    "protocol",
    "auto",
    "paper, small, or auto: by the size of network and data, or as a file says.",
)
PARAMS_OVERRIDE = _define(
    "multi_string", "params_override", [], "Settings over those of the files: a=1,b=2 or YAML."
)
MODEL = _define(
    "string",
    "model",
    None,
    "SavedModel or run folder. nmi: run folder, or output of kmeans.",
    required=True,
)
STAGE = _define("string", "stage", "", "Of a run: take it as it was when this stage ended.")
TRAIN = _define(
    "string",
    "train",
    None,
    "Labelled data set to learn from. nmi: the run's, if it has moved; of kmeans, the one that was "
    "embedded. retrieval: folder of other images, for whitening.",
)
TEST = _define(
    "string",
    "test",
    None,
    "Labelled data set to measure on. retrieval: folder of images with a ground truth.",
)
LAYER = _define("list", "layer", ["all"], "conv1..conv13, fc6, fc7, comma-separated, or 'all'.")
OUTPUT = _define("string", "output", None, "JSON file for the result.")
PLOT = _define("string", "plot", None, "Picture of accuracy by layer, e.g. layers.png.")
RANDOM_INIT = _define("bool", "random_init", True, "Measure an untrained network beside it.")
ESTIMATE = _define(
    "bool", "estimate", True, "Measure for some seconds first what it will cost, and print that."
)
COMPUTE_DTYPE = _define(
    "string",
    "compute_dtype",
    "auto",
    "Of the network's products: float32, bfloat16, or auto, which measures the faster.",
)
RESIZE = _define("integer", "resize", None, "Pixels of the short side before the centre crop.")
SEED = _define("integer", "seed", 0, "Of the untrained network, classifiers and augmentation.")
WATCH_DIR = _define(
    "string",
    "watch_dir",
    None,
    "With several workers: folder that all see. They tell one another there how they are, and when "
    "one is gone or hangs the others end, and say which.",
)
TIMEOUT_S = _define(
    "float",
    "timeout_s",
    600.0,
    "With --watch_dir: seconds that a worker may be silent or do nothing; 0: for ever.",
    lower_bound=0,
)
SCRATCH = _define(
    "string", "scratch", None, "Folder for features that memory cannot hold (the system's own)."
)


def run() -> dict | None:
    """Measures; returns the result, on the first of several workers."""
    _check_flags()
    # After the flags are known to be right, since TensorFlow takes seconds to import.
    from dc_tf.distributed.task import task_from_environment
    from dc_tf.evaluation import run as evaluation
    from dc_tf.evaluation import tasks

    if task_from_environment().rank == 0:  # The others write nothing, and may not have the folder.
        for name, path in (("output", OUTPUT.value), ("plot", PLOT.value)):
            _check_can_be_made(name, path)
    asked = tasks.read(
        TASK.value,
        CONFIG_FILE.value,
        PARAMS_OVERRIDE.value,
        PROTOCOL.value,
        seed=SEED.value,
        scratch=SCRATCH.value,
    )
    if PLOT.value and asked.task not in tasks.BY_LAYER:
        raise ConfigError(f"--plot is of layers, which only {', '.join(tasks.BY_LAYER)} measure.")
    with _joined() as cluster, heartbeat.slow_operation("evaluation"):
        request = tasks.Request(
            task=asked.task,
            model=MODEL.value,
            stage=STAGE.value,
            train=TRAIN.value,
            test=TEST.value,
            layers=tuple(LAYER.value),
            random_init=RANDOM_INIT.value,
            compute_dtype=COMPUTE_DTYPE.value,
            resize=RESIZE.value,
            seed=SEED.value,
            cluster=cluster,
        )
        result, table = evaluation.run(asked, request, ESTIMATE.value)
    if cluster and not cluster.is_chief:
        return None
    print(table, flush=True)
    _write(result)
    return Result(result, shown=True, path=OUTPUT.value, flag="--output")


def _check_flags():
    if COMPUTE_DTYPE.value not in _COMPUTE_DTYPES:
        raise ConfigError(
            f"--compute_dtype is {COMPUTE_DTYPE.value!r}; use {' or '.join(_COMPUTE_DTYPES)}."
        )
    if PLOT.value and not PLOT.value.endswith(_PICTURES):
        raise ConfigError(f"--plot is {PLOT.value}; its end must be {', '.join(_PICTURES)}.")
    if TRAIN.value and TEST.value and same_place(TRAIN.value, TEST.value):
        logging.warning(
            "--train and --test are both %s: figures will be better than on other images.",
            TEST.value,
        )


def _write(result):
    """Writes the files that were asked for; what cannot be written is printed."""
    import tensorflow as tf

    try:
        if OUTPUT.value:
            with tf.io.gfile.GFile(OUTPUT.value, "w") as f:
                f.write(json.dumps(result, indent=1) + "\n")
        if PLOT.value:
            from dc_tf.evaluation.frozen.plot import plot  # brings Matplotlib

            plot(result, PLOT.value)
    except (OSError, tf.errors.OpError) as error:
        print(json.dumps(result), flush=True)  # hours of work, and nothing else has it
        raise DataError(f"the result above could not be written: {error}") from error


def _check_can_be_made(name, path):
    """ConfigError if a local file cannot be written: now rather than after the work."""
    if not path or "://" in path:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise ConfigError(
            f"--{name}={path} cannot be written; use a file in a folder that is there and can be "
            "written."
        )


@contextlib.contextmanager
def _joined():
    """The cluster of the workers that TF_CONFIG names; None for a process on its own."""
    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.session import join, leaving, watched
    from dc_tf.distributed.task import task_from_environment

    task = task_from_environment()
    with contextlib.ExitStack() as stack:
        cluster = None
        if task.size > 1 and WATCH_DIR.value:
            setting = f"--watch_dir={WATCH_DIR.value}"
            folders = (os.path.join(WATCH_DIR.value, name) for name in ("heartbeats", "stacks"))
            watching = watched(setting, *folders, task, TIMEOUT_S.value)
            cluster = join(stack.enter_context(watching))
        elif task.size > 1:
            cluster = connect(within_s=_JOIN_S)
        if cluster:
            # TensorFlow has installed its own. Nothing is saved before the end.
            stop_request.restore_default_handlers()
            stack.enter_context(leaving(cluster))
        yield cluster
