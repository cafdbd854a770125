"""dc_tf in Python: the functions that `import dc_tf` has at its top.

    import dc_tf

    experiment = dc_tf.load_experiment("quickstart", data={"path": "DATA"})
    dc_tf.pretrain(experiment, "RUN")
    features = dc_tf.embed("RUN", "DATA", layer="conv4")
    clusters = dc_tf.kmeans(features, k=100)

The commands of `dc_tf` call the same code, with the same defaults and messages; the messages here
name arguments where those of a command name flags. Paths are str or PathLike. Progress
goes to stderr. Ctrl-C asks a long call to save and end with `errors.Preempted`; the same call
resumes. TensorFlow is imported by the first function that needs it.
"""

from dc_tf.api.classification import finetune, predict
from dc_tf.api.clusters import assign, browse, write_clusters, write_report
from dc_tf.api.collection import curate, find_duplicates, search
from dc_tf.api.data import convert, generate, open_dataset, sources_of
from dc_tf.api.features import embed, evaluate, kmeans
from dc_tf.api.training import export, load_experiment, load_trunk, pretrain, run_sweep

__all__ = [
    "generate",
    "convert",
    "open_dataset",
    "sources_of",
    "load_experiment",
    "pretrain",
    "export",
    "load_trunk",
    "embed",
    "kmeans",
    "curate",
    "evaluate",
    "finetune",
    "predict",
    "search",
    "find_duplicates",
    "write_clusters",
    "assign",
    "browse",
    "write_report",
    "run_sweep",
]
