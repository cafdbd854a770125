"""The tasks by name, and what they are asked.

    task, protocol = read_protocol("knn", [], ["cells=1"])
    result, table = task.run(Request("knn", model="/models/mine", train=..., test=...), protocol)

A task is a module with a `Protocol`, a dataclass whose defaults are the paper's settings where it
has some, and `run(request, protocol) -> (JSON-able dict, table to print)`. `protocols` says which
settings are taken where more than one set of them exists.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable

from dc_tf import settings
from dc_tf.distributed.cluster import Cluster
from dc_tf.distributed.collectives import Communicator, Solo
from dc_tf.errors import ConfigError
from dc_tf.evaluation import protocols
from dc_tf.evaluation.models import FrozenModel, open_model
from dc_tf.evaluation.splits import Split, open_splits
from dc_tf.export.weights import weights_digest
from dc_tf.precision import choose, tell

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
# Those that measure every layer.
BY_LAYER = ("knn", "linear_probe", "low_shot")
# Those whose images are of a VOC development kit.
DEVKIT = ("voc07_classification", "voc07_detection")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be measured, on what.

    Attributes:
        task: name.
        model: path of a SavedModel or of a run folder.
        stage: of a run: as it was when this stage ended; "" for its newest state.
        train, test: paths of data sets, None where they were not given.
        layers: names, or "all".
        random_init: whether to measure an untrained network of the same shape as well.
        compute_dtype: "float32" or "bfloat16", of the network's products, or "auto", the faster.
        resize: pixels of the short side before the centre crop; None for the model's own.
        seed: of the untrained network.
        cluster: the workers that share the work; all return the same. None for one alone.
        before: called with a function to the work on one network (cost.Work) and with the number
            of networks, when all is open and before the long part begins; None for nothing.
        opened: what was opened, filled in: the digest of the `weights` of the network, its
            `compute_dtype`, and the fingerprints of the data sets `train` and `test`.
    """

    task: str
    model: str
    stage: str = ""
    train: str | None = None
    test: str | None = None
    layers: tuple[str, ...] = ("all",)
    random_init: bool = True
    compute_dtype: str = "auto"
    resize: int | None = None
    seed: int = 0
    cluster: Cluster | None = None
    before: Callable | None = None
    opened: dict = dataclasses.field(default_factory=dict)

    @property
    def world(self) -> Communicator:
        """The communicator of all workers."""
        return self.cluster.world if self.cluster else Solo()

    def announce(self, work: Callable, networks: int | None = None):
        """Tells `before` what a task is going to do.

        Args:
            work: function to cost.Work.
            networks: to which it does that; None for the model and, if asked for, an untrained one.
        """
        if self.before:
            self.before(work, networks or 1 + self.random_init)

    def frozen_model(self) -> FrozenModel:
        """The network that was asked for.

        Raises:
            ConfigError: the path holds none, or it cannot be used as asked.
        """
        choice = choose(self.compute_dtype, "convolution", comm=self.world)
        if self.world.rank == 0:
            tell(choice, "evaluate")
        frozen = open_model(self.model, choice.dtype, self.stage)
        self.opened["compute_dtype"] = choice.dtype
        self.opened["weights"] = weights_digest(frozen.trunk)
        if self.resize is None:
            return frozen
        if self.resize < frozen.resolution:
            raise ConfigError(
                f"--resize is {self.resize}; the network's crop needs at least {frozen.resolution}."
            )
        return dataclasses.replace(frozen, short_side=self.resize)

    def splits(self) -> tuple[Split, Split]:
        """The labelled data sets.

        Raises:
            ConfigError: one is missing or has no labels.
        """
        for name in ("train", "test"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is missing; give a data set with labels.")
        splits = open_splits(self.train, self.test)
        for name, split in zip(("train", "test"), splits):
            self.opened[name] = split.reader.dataset.fingerprint()
        return splits


def read(task: str | None, config_files=(), params_override=(), wanted=protocols.AUTO, **under):
    """What was asked for: the task with its settings, of which the protocol may still be open.

    Args:
        task: name; None takes the one that a file names (`task: knn`).
        config_files: paths of YAML files of settings of the protocol.
        params_override: settings over those of the files; see `settings.read`.
        wanted: "paper", "small" or "auto".
        under: settings for tasks that have such ones, under those of the files.

    Returns:
        protocols.Asked.

    Raises:
        ConfigError: an unknown task, protocol or setting, or a value that cannot work.
    """
    given = settings.read(config_files, params_override)
    named = given.pop("task", None)
    if task and named and task != named:
        raise ConfigError(f"--task is {task}, but {', '.join(config_files)} is for {named}.")
    name = task or named
    if name not in TASKS:
        raise ConfigError(f"--task is {name!r}; use one of {', '.join(TASKS)}.")
    module = importlib.import_module(TASKS[name])
    return protocols.read(module, name, given, config_files, wanted, **under)


def read_protocol(task: str | None, config_files=(), params_override=(), **under):
    """The task's module and its protocol; the paper's where nothing names another one.

    For callers that choose themselves; see `read` for arguments and errors.
    """
    asked = read(task, config_files, params_override, **under)
    return asked.module, asked.choose(images=math.inf).protocol
