"""The configuration of an experiment: data, model and stages.

The defaults are the paper's. A YAML file overrides them, and `--params_override` overrides the
file.

    experiment = load(["quickstart"], ["data.path=/data/mine,stages[0].epochs=2"])
"""

import dataclasses
import math

import yaml

from dc_tf import settings as settings_lib
from dc_tf.errors import ConfigError
from dc_tf.hyperparams import Config
from dc_tf.kmeans_options import BACKENDS, INITS, PRECISIONS, KMeansOptions
from dc_tf.limits import LONGEST_S

LOSSES = ("hierarchical", "product")
# Settings without influence on results.
_FREE = (
    *("checkpoint_every", "keep_checkpoints", "keep_clusterings", "log_every", "threads"),
    "watchdog",
)
_SECONDS = "use seconds from 0 to 1e9"
_MODEL_CHOICES = {
    "compute_dtype": ("float32", "bfloat16", "float16", "auto"),
    "sync_batch_norm": ("world", "group", "off"),
}
_CLUSTERING_CHOICES = {
    "init": (*INITS, "previous"),
    "precision": PRECISIONS,
    "backend": BACKENDS,
    "store_dtype": ("float16", "bfloat16", "float32"),
}


@dataclasses.dataclass
class Data(Config):
    """The data set and the preprocessing of its images.

    Attributes:
        path: data set folder, written by `dc_tf convert` or `generate`.
        min_crop_area: smallest share of the image in a random crop.
        resize: short side, in pixels, before the centre crop from which features are extracted;
            0 means 256/224 of the resolution.
        flip: mirror half of the training images.
        max_bad_share: share of the rows that may be corrupt; in training, each is replaced by the
            next good one, logged with its shard and offset, and counted. With 0, the first is an
            error.
    """

    path: str = ""
    min_crop_area: float = 0.08
    resize: int = 0
    flip: bool = True
    max_bad_share: float = 0.001


@dataclasses.dataclass
class Model(Config):
    """The trunk and how it is trained; see `dc_tf.nn.vgg16.VGG16`.

    Attributes:
        width: multiplies the number of channels of every convolution.
        resolution: side of the images that the network sees, in pixels.
        fc: units of fc6 and of fc7.
        sobel: take image gradients as input; otherwise normalised RGB.
        compute_dtype: "float32", or products in "bfloat16" or "float16"; weights stay float32. In
            float16 the loss is scaled, and a step whose gradients overflow is skipped. "auto" is
            bfloat16 where that is faster on all workers, else float32 (`dc_tf.precision`); the
            choice is saved in the run and kept when it resumes elsewhere.
        dropout: drop half of fc6 in training.
        sync_batch_norm: whose images share batch statistics: those of the "world", of the "group"
            of workers that serve the same super-classes, or of each worker alone ("off"). Only with
            "world" does the result not depend on the number of workers.
        xla: compile forward and backward pass; needs batch norm over a single worker.
    """

    width: float = 1.0
    resolution: int = 224
    fc: int = 4096
    sobel: bool = True
    compute_dtype: str = "float32"
    dropout: bool = True
    sync_batch_norm: str = "world"
    xla: bool = False


@dataclasses.dataclass
class Clustering(Config):
    """From features to cluster assignments; see `dc_tf.clustering.kmeans`.

    Attributes:
        whitening_dim: directions kept by the PCA; 0 keeps all.
        iterations: of Lloyd's algorithm, at both levels; the maximum, if `tolerance` is set.
        batch_size: images per worker and step while features are extracted.
        init: "random" rows, as in the paper; "k-means++", good for few clusters; "k-means||", for
            many; "previous", the last round's clusters in this round's features.
        precision: of the products of rows and centroids, "float32", "bfloat16" or "auto", as of
            `Model.compute_dtype`.
        spherical: centroids of length 1, so that rows are compared by their angle only.
        tolerance: relative gain of an iteration below which it is the last; 0 runs all iterations.
        backend: of the search for the nearest centroid, "auto", "tensorflow" or "faiss".
        cache_gb: keep a worker's rows of a k-means in device memory if they take at most this;
            otherwise, and with 0, every pass reads them again. The clusters are the same.
        store_dtype: of the features on disk, "float16", "bfloat16" or "float32".
        save_every_s: seconds between saves of a clustering in progress; 0 saves after every pass.
    """

    whitening_dim: int = 0
    iterations: int = KMeansOptions.iterations
    batch_size: int = 256
    init: str = KMeansOptions.init
    precision: str = KMeansOptions.precision
    spherical: bool = KMeansOptions.spherical
    tolerance: float = KMeansOptions.tolerance
    backend: str = KMeansOptions.backend
    cache_gb: float = KMeansOptions.cache_bytes / 1e9
    store_dtype: str = "float16"
    save_every_s: float = 60.0

    @property
    def cache_bytes(self) -> int:
        """`cache_gb` in bytes."""
        return round(self.cache_gb * 1e9)

    def kmeans_options(self) -> KMeansOptions:
        """These settings as k-means takes them."""
        names = ("iterations", "init", "precision", "spherical", "tolerance", "backend")
        values = {name: getattr(self, name) for name in names}
        return KMeansOptions(cache_bytes=self.cache_bytes, **values)

    def result_settings(self) -> dict:
        """Settings that the clusters depend on."""
        settings = self.as_dict()
        for name in ("cache_gb", "save_every_s"):
            del settings[name]
        return settings


@dataclasses.dataclass
class Optimizer(Config):
    """An optimizer of Keras, with coupled weight decay.

    Attributes:
        name: of its class in Keras, such as "SGD", "Adam", "AdamW" or "Adagrad".
        options: its further arguments by name, such as beta_1 or global_clipnorm. Keras'
            own weight_decay is one of these; it is decoupled from the gradient.
        learning_rate: of the first epoch.
        momentum, nesterov: of SGD.
        drops: epochs of the stage after which the learning rate is multiplied by `drop_factor`.
        weight_decay: added to the gradient of every trainable weight, times the weight.
        literal_head_scale: scale gradients of sub-class heads as Eq. 5 is written, i.e. 1/S of
            the default, which averages over the images of the head's own super-class.
    """

    name: str = "SGD"
    options: Config = dataclasses.field(default_factory=Config)
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-5
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.1
    literal_head_scale: bool = False


@dataclasses.dataclass
class Stage(Config):
    """A method with its settings, run for some epochs.

    RotNet is clusters = 1, sub_clusters = 0, rotations = 4; DeepCluster is clusters = 1,
    rotations = 1; DeeperCluster has several of each.

    Attributes:
        name: of the stage in progress lines, results and `--stage`.
        epochs: each of about N images.
        rotations: R; 1 (upright only), 2 (and upside down) or 4.
        clusters: m, clusters of the first level.
        sub_clusters: k, clusters inside each of the m; 0 trains without them.
        reassign_every: epochs from one clustering to the next.
        rotations_together: the R rotations of an image are in one batch; needs clusters = 1. An
            epoch still has about N images, so N / R distinct ones.
        head_initializer: "uniform" or "normal"; see `dc_tf.nn.heads.LinearHead`.
        batch_size: images of one step over all workers.
        accumulate: micro-batches into which a worker's batch is split, to save memory. Batch norm
            uses the statistics of a micro-batch (of all workers).
        loss: "hierarchical" (Eq. 5), or "product" (Eq. 4): one softmax over all pairs of
            super-class and sub-class, held by every worker.
    """

    name: str = "deepercluster"
    epochs: int = 100
    rotations: int = 4
    clusters: int = 4
    sub_clusters: int = 80_000
    reassign_every: int = 3
    rotations_together: bool = False
    head_initializer: str = "uniform"
    batch_size: int = 3072
    accumulate: int = 1
    loss: str = "hierarchical"
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    clustering: Clustering = dataclasses.field(default_factory=Clustering)

    @property
    def super_classes(self) -> int:
        """S."""
        return self.clusters * self.rotations

    @property
    def clustered(self) -> bool:
        """Whether training needs cluster assignments at all."""
        return self.clusters > 1 or self.sub_clusters > 0

    @property
    def rounds(self) -> int:
        """Number of clusterings, or 1 for a stage that does without."""
        return math.ceil(self.epochs / self.reassign_every) if self.clustered else 1

    def round_of(self, epoch: int) -> tuple[int, int, int]:
        """(index, first epoch, epoch after the last) of the round that `epoch` belongs to."""
        if not self.clustered:
            return 0, 0, self.epochs
        index = epoch // self.reassign_every
        first = index * self.reassign_every
        return index, first, min(self.epochs, first + self.reassign_every)


@dataclasses.dataclass
class Watchdog(Config):
    """How long to wait for a worker that is silent or makes no progress.

    Attributes:
        timeout_s: seconds; ten times as many in slow operations such as the first step. A dead
            worker is found within seconds. 0 waits forever for a living one.
    """

    timeout_s: float = 600.0


@dataclasses.dataclass
class Experiment(Config):
    """All settings of a run.

    Attributes:
        seed: of initial weights, sampling, augmentation and clustering.
        stages: run one after the other on the same trunk.
        checkpoint_every: steps between checkpoints; one is also written after each round.
        keep_checkpoints: newest checkpoints to keep, beside those at the ends of stages.
        keep_clusterings: newest clusterings whose centroids, whitening and network are kept, to
            assign other images to them; 0 keeps none. `--dry_run` prints the size of one.
        log_every: steps between lines of metrics.
        init_from: run folder, or exported or imported model, whose trunk this run starts from.
        init_stage: name of a stage of that run, to start from its end; "" for the run's end.
        threads: parallel calls of the input pipeline; 0 for one per core.
    """

    seed: int = 0
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    stages: tuple[Stage, ...] = ()
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    keep_clusterings: int = 2
    log_every: int = 50
    init_from: str = ""
    init_stage: str = ""
    threads: int = 0
    watchdog: Watchdog = dataclasses.field(default_factory=Watchdog)


def load(config_files=(), params_override=()) -> Experiment:
    """The defaults, then each YAML file, then each override, checked.

    Args:
        config_files: paths, or names of presets; a later file overrides an earlier one.
        params_override: YAML/JSON mappings, "a.b=c,d=e" strings (stages[0].epochs=3 reaches into
            a list), or paths of YAML files, as in tf-models.

    Raises:
        ConfigError: unreadable, an unknown setting, or a value that cannot work.
    """
    settings = settings_lib.read(config_files, params_override)
    stages = [
        settings_lib.fill(Stage(), stage, f"stages[{i}]")
        for i, stage in enumerate(_stages(settings))
    ]
    settings.pop("stages", None)
    experiment = settings_lib.fill(Experiment(), settings)
    experiment = experiment.replace(stages=tuple(stages))
    check(experiment)
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """All settings, as `load` reads them."""
    settings = experiment.as_dict()
    settings["stages"] = list(settings["stages"])
    return yaml.safe_dump(settings, sort_keys=False)


def differences(a: Experiment, b: Experiment) -> list[str]:
    """Settings in which two experiments give different results, as "name: this, that".

    The path of the data, how often to save, the number of threads and the cache in device
    memory may differ.
    """
    first, second = (result_settings(e) for e in (a, b))
    names = sorted(first.keys() | second.keys())
    return [
        f"{name}: {first.get(name)}, {second.get(name)}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def result_settings(experiment: Experiment) -> dict:
    """The settings that results depend on, flat, as in {"stages[0].epochs": 3}."""
    settings = experiment.as_dict()
    for name in _FREE:
        del settings[name]
    del settings["data"]["path"], settings["data"]["max_bad_share"]
    for values, stage in zip(settings["stages"], experiment.stages):
        values["clustering"] = stage.clustering.result_settings()
    return _flat(settings)


def _flat(value, name="") -> dict:
    """{"a": [{"b": 1}]} to {"a[0].b": 1}."""
    if isinstance(value, dict):
        parts = [_flat(v, f"{name}.{k}" if name else k) for k, v in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        parts = [_flat(v, f"{name}[{i}]") for i, v in enumerate(value)]
    else:
        return {name: list(value) if isinstance(value, tuple) else value}
    return {k: v for part in parts for k, v in part.items()}


def check(experiment: Experiment) -> None:
    """Refuses what cannot work on any number of workers.

    Raises:
        ConfigError: naming the setting, what it is and what would work.
    """

    def need(condition, setting, given, works):
        if not condition:
            raise ConfigError(f"{setting} is {given!r}; {works}.")

    model, data = experiment.model, experiment.data
    need(data.path, "data.path", data.path, "set it to a folder written by 'dc_tf convert'")
    need(model.resolution >= 30, "model.resolution", model.resolution, "use at least 30 pixels")
    need(0 < model.width <= 1000, "model.width", model.width, "use a positive number up to 1000")
    need(model.fc >= 1, "model.fc", model.fc, "use at least 1")
    for setting, choices in _MODEL_CHOICES.items():
        value = getattr(model, setting)
        need(value in choices, f"model.{setting}", value, f"use {', '.join(choices)}")
    need(0 < data.min_crop_area <= 1, "data.min_crop_area", data.min_crop_area, "use (0, 1]")
    need(0 <= data.max_bad_share < 1, "data.max_bad_share", data.max_bad_share, "use [0, 1)")
    short_side = data.resize or model.resolution
    need(short_side >= model.resolution, "data.resize", short_side, "use 0 or >= model.resolution")
    need(experiment.stages, "stages", experiment.stages, "list at least one stage")
    need(experiment.seed >= 0, "seed", experiment.seed, "use a number from 0 on")
    kept = experiment.keep_clusterings
    need(kept >= 0, "keep_clusterings", kept, "use a number from 0 on")
    need(experiment.threads >= 0, "threads", experiment.threads, "use 0, or at least 1")
    seconds = experiment.watchdog.timeout_s
    need(0 <= seconds <= LONGEST_S, "watchdog.timeout_s", seconds, _SECONDS)
    names = [stage.name for stage in experiment.stages]
    need(len(set(names)) == len(names), "stages[...].name", names, "give each stage its own name")
    for setting in ("checkpoint_every", "keep_checkpoints", "log_every"):
        value = getattr(experiment, setting)
        need(value >= 1, setting, value, "use at least 1")
    for i, stage in enumerate(experiment.stages):
        _check_stage(stage, lambda name: f"stages[{i}].{name}", model, need)  # noqa: B023


def _check_stage(stage, name, model, need):
    for setting in ("epochs", "clusters", "reassign_every", "batch_size", "accumulate"):
        need(getattr(stage, setting) >= 1, name(setting), getattr(stage, setting), "use at least 1")
    need(stage.rotations in (1, 2, 4), name("rotations"), stage.rotations, "use 1, 2 or 4")
    need(stage.sub_clusters != 1, name("sub_clusters"), 1, "use 0, or at least 2")
    need(stage.sub_clusters >= 0, name("sub_clusters"), stage.sub_clusters, "use 0, or at least 2")
    together = stage.rotations_together and stage.clusters > 1
    need(not together, name("rotations_together"), True, "use it with clusters = 1 only")
    pointless = stage.super_classes == 1 and stage.sub_clusters == 0
    need(not pointless, name("rotations"), 1, "use more rotations, clusters or sub_clusters")
    head = stage.head_initializer
    need(head in ("uniform", "normal"), name("head_initializer"), head, "use uniform or normal")
    need(stage.loss in LOSSES, name("loss"), stage.loss, f"use {' or '.join(LOSSES)}")
    flat = stage.loss == "product" and not stage.sub_clusters
    need(not flat, name("loss"), "product", "use it with sub_clusters")
    _check_clustering(stage.clustering, lambda setting: name(f"clustering.{setting}"), model, need)
    for setting, least, works in (
        ("learning_rate", 1e-30, "use a positive number"),
        ("drop_factor", 1e-30, "use a positive number"),
        ("weight_decay", 0, "use 0 or a positive number"),
    ):
        value = getattr(stage.optimizer, setting)
        need(value >= least, name(f"optimizer.{setting}"), value, works)
    momentum = stage.optimizer.momentum
    need(0 <= momentum < 1, name("optimizer.momentum"), momentum, "use [0, 1)")


def _check_clustering(clustering, name, model, need):
    dim = clustering.whitening_dim
    need(0 <= dim <= model.fc, name("whitening_dim"), dim, f"use 0 to fc = {model.fc}")
    for setting in ("iterations", "batch_size"):
        value = getattr(clustering, setting)
        need(value >= 1, name(setting), value, "use at least 1")
    for setting, choices in _CLUSTERING_CHOICES.items():
        value = getattr(clustering, setting)
        need(value in choices, name(setting), value, f"use {', '.join(choices)}")
    if clustering.backend == "faiss":
        precision = clustering.precision
        works = precision in ("float32", "auto")
        need(works, name("precision"), precision, "use float32 or auto with faiss")
    need(0 <= clustering.tolerance < 1, name("tolerance"), clustering.tolerance, "use [0, 1)")
    need(0 <= clustering.cache_gb <= 1e9, name("cache_gb"), clustering.cache_gb, "use 0 to 1e9")
    seconds = clustering.save_every_s
    need(0 <= seconds <= LONGEST_S, name("save_every_s"), seconds, _SECONDS)


def _stages(settings) -> list[dict]:
    stages = settings.get("stages") or []
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise ConfigError(f"stages is {stages!r}; expected a list of mappings.")
    return stages
