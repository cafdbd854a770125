"""Measures what was learned: frozen features, fine-tuning, retrieval, clusters.

    dc_tf evaluate --task=knn --model=MODEL --train=DATA --test=TEST --params_override=cells=1
    dc_tf evaluate --config_file=linear_probe_small --model=RUN ...
    dc_tf evaluate --task=knn --model=theirs.onnx --preprocessing=imagenet --train=DATA --test=TEST
    dc_tf evaluate --task=knn --features=FEATURES --train=TRAIN_VIEW --test=TEST_VIEW

finetune, linear_probe, retrieval and both tasks on VOC have the paper's settings, and small ones
that take minutes on a CPU. --protocol=auto, the default, chooses by the size of the network and of
the data, and says which and why. A preset of configs/evaluation, such as linear_probe_voc07, names
the task and its settings, and precedes auto. Before the long part, the command measures for some
seconds what it will cost.

Tasks that take labels also measure an untrained network of the same shape, since on small images
random features are a strong baseline. With TF_CONFIG, workers share the work.

knn, linear_probe and low_shot take networks of other programs too (see dc_tf embed --help), and
with retrieval, in place of a network, features of any origin that images have already.

knn, linear_probe, low_shot: classification by frozen layers.
rotation: which way up an image is, as the network was trained to say; --test only.
finetune: classification by the whole network, trained on labels.
retrieval: finding images of the same object; takes folders of images.
voc07_classification, voc07_detection, and linear_probe with train_split and test_split: on the VOC
development kit that --train names.
nmi: how much the clusters of every round of a run, or of an output of `dc_tf kmeans`, agree with
labels, hashtags and other metadata.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import FILES, column_flag
from dc_tf.commands.terminal.results import Result

FLAGS = CommandFlags()
TASK = FLAGS.string("task", None, "Name of the task; not needed with a file that names it.")
CONFIG_FILE = FLAGS.multi_path(
    "config_file", [], "YAML file with the task's name and settings, or the name of a preset."
)
PROTOCOL = FLAGS.string(
    "protocol",
    "auto",
    "paper, small, or auto: by a configuration file, or by the size of network and data.",
)
PARAMS_OVERRIDE = FLAGS.multi_string(
    "params_override", [], "Settings over those of the files: a=1,b=2 or YAML."
)
MODEL = FLAGS.path(
    "model",
    None,
    "SavedModel or run folder. nmi: run folder, or output of kmeans. knn, linear_probe, low_shot: "
    "also a SavedModel, Keras or ONNX file of another program, or a TensorFlow Hub address.",
)
FEATURES = FLAGS.paths(
    "features",
    None,
    f"Without --model: features of the images of --train, {FILES}; and of --test, where both are "
    "views of the data set of these features. retrieval: --test are the images, --train others for "
    "whitening, or none.",
)
COLUMN = column_flag(FLAGS)
TEST_FEATURES = FLAGS.paths(
    "test_features", None, "With --features: those of the images of --test, if they are others."
)
PREPROCESSING = FLAGS.string(
    "preprocessing", None, "Of networks of other programs: as of dc_tf embed."
)
SIGNATURE = FLAGS.string("signature", "", "Of SavedModels of other programs: as of dc_tf embed.")
STAGE = FLAGS.string("stage", "", "Of a run: use the network as it was at the end of this stage.")
TRAIN = FLAGS.path(
    "train",
    None,
    "Labelled data set to learn from. nmi: the run's, if it has moved; of kmeans, the one that was "
    "embedded. retrieval: folder of other images, for whitening.",
)
TEST = FLAGS.path(
    "test",
    None,
    "Labelled data set to measure on. retrieval: folder of images with a ground truth.",
)
LAYER = FLAGS.list(
    "layer",
    ["all"],
    "conv1..conv13, fc6, fc7 of VGG-16; conv1, block1_1..block4_2 (ResNet-50: block4_3), pool of a "
    "ResNet; of other networks, outputs, and of features their layer; comma-separated, or 'all'.",
)
OUTPUT = FLAGS.path("output", None, "JSON file for the result.")
PLOT = FLAGS.path("plot", None, "Picture of accuracy by layer, e.g. layers.png.")
NEIGHBOURS = FLAGS.path(
    "neighbours",
    None,
    "CSV file to write: of knn, for each test image its nearest training images in the best layer; "
    "of retrieval, for each query the first images; with the names of their files.",
)
RANDOM_INIT = FLAGS.bool("random_init", True, "Also measure an untrained network.")
ESTIMATE = FLAGS.bool(
    "estimate", True, "First measure for some seconds what the task will cost, and print it."
)
COMPUTE_DTYPE = FLAGS.string(
    "compute_dtype",
    "auto",
    "Type of the network's products: float32, bfloat16, or auto, which measures the faster.",
)
RESIZE = FLAGS.integer(
    "resize", None, "Pixels of the short side before the centre crop.", lower_bound=1
)
SEED = FLAGS.integer(
    "seed", 0, "Seed of the untrained network, classifiers and augmentation.", lower_bound=0
)
WATCH_DIR = FLAGS.path(
    "watch_dir",
    None,
    "With several workers: shared folder for their heartbeats. When a worker dies or hangs, the "
    "others end and name it.",
)
TIMEOUT_S = FLAGS.float(
    "timeout_s",
    600.0,
    "With --watch_dir: seconds without heartbeat or progress until a worker counts as dead; 0: "
    "no limit.",
    lower_bound=0,
)
SCRATCH = FLAGS.path(
    "scratch", None, "Folder for features that exceed memory; None: the system's temporary one."
)


def run() -> dict | None:
    """Measures; returns the result, on the chief of several workers."""
    from dc_tf.evaluation.start import evaluate

    found = evaluate(
        task=TASK.value,
        config_files=CONFIG_FILE.value,
        params_override=PARAMS_OVERRIDE.value,
        protocol=PROTOCOL.value,
        model=MODEL.value,
        stage=STAGE.value,
        train=TRAIN.value,
        test=TEST.value,
        layers=LAYER.value,
        output=OUTPUT.value,
        plot=PLOT.value,
        neighbours=NEIGHBOURS.value,
        random_init=RANDOM_INIT.value,
        estimate=ESTIMATE.value,
        compute_dtype=COMPUTE_DTYPE.value,
        resize=RESIZE.value,
        seed=SEED.value,
        watch_dir=WATCH_DIR.value,
        timeout_s=TIMEOUT_S.value,
        scratch=SCRATCH.value,
        features=FEATURES.value,
        column=COLUMN.value,
        test_features=TEST_FEATURES.value,
        preprocessing=PREPROCESSING.value,
        signature=SIGNATURE.value,
    )
    if found is None:
        return None
    print(found.table, flush=True)
    found.write(OUTPUT.value, PLOT.value, NEIGHBOURS.value)
    return Result(found, shown=True, path=OUTPUT.value, flag="--output")
