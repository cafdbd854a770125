"""The names of the evaluation tasks, and what each of them can take; without TensorFlow."""

from dc_tf.errors import ConfigError

# {name: module}.
TASKS = {
    "finetune": "dc_tf.evaluation.finetune.task",
    "knn": "dc_tf.evaluation.frozen.knn",
    "linear_probe": "dc_tf.evaluation.frozen.linear_probe",
    "low_shot": "dc_tf.evaluation.frozen.low_shot",
    "nmi": "dc_tf.evaluation.clusters.nmi",
    "rotation": "dc_tf.evaluation.rotation",
    "retrieval": "dc_tf.evaluation.retrieval.task",
    "voc07_classification": "dc_tf.evaluation.voc07.classification",
    "voc07_detection": "dc_tf.evaluation.voc07.detection",
}
# Tasks that measure every layer.
BY_LAYER = ("knn", "linear_probe", "low_shot")
# Tasks that take features of files in place of a network.
OF_FEATURES = (*BY_LAYER, "retrieval", "nmi")
# Tasks that find the images nearest to others.
NEIGHBOURS = ("knn", "retrieval")
# Tasks that read a VOC development kit.
DEVKIT = ("voc07_classification", "voc07_detection")


def check_task(name: str) -> None:
    """Refuses a name of no task.

    Raises:
        ConfigError: lists the names.
    """
    if name not in TASKS:
        raise ConfigError(f"--task is {name!r}; use one of {', '.join(TASKS)}.")
