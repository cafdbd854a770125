"""The evaluation tasks by name, and the request that they take.

    asked = read("knn", [], ["cells=1"])
    protocol = asked.choose(network, images).protocol
    request = Request("knn", model="/models/mine", train=..., test=...)
    result, table = asked.module.run(request, protocol)

A task is a module with a dataclass `Protocol`, whose defaults are the paper's settings if the paper
has the task, and a function `run(request, protocol) -> (JSON-serialisable dict, table to print)`.
`protocols` chooses between several sets of settings.
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable

from dc_tf import settings
from dc_tf.distributed.cluster import Cluster
from dc_tf.distributed.collectives import Communicator, Solo
from dc_tf.errors import ConfigError
from dc_tf.evaluation import protocols
from dc_tf.evaluation.models import FrozenModel, open_model, open_other
from dc_tf.evaluation.splits import Split, open_splits
from dc_tf.evaluation.task_names import TASKS, check_task
from dc_tf.networks.network import OUTPUTS, Wanted
from dc_tf.precision import choose, print_choice


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate, and on which data.

    Attributes:
        task: name of the task.
        model: path of a SavedModel or of a run folder; of tasks by layer also of a network of
            another program. None with `features`.
        stage: of a run, selects the checkpoint at the end of this stage; "" for the newest one.
        train, test: paths of data sets; None if not given.
        layers: names of layers, or "all".
        random_init: whether to also measure an untrained network of the same shape.
        compute_dtype: "float32", "bfloat16", or "auto" for the faster one.
        resize: short side in pixels before the centre crop; None for the model's own.
        seed: seed of the untrained network.
        cluster: the workers that share the work; all get the same result. None for a single
            process.
        before: called once everything is open, before the long part, with a function that returns
            the work on one network (cost.Work) and with the number of networks; None to skip.
        features: features of the training images, as of `features.open.open_features`; None
            with `model`.
        test_features: those of the test images; None if `features` has them too.
        column: of both, as of `open_features`.
        other: how to open a network of another program, arguments of `networks.network.Wanted`;
            None for one of this package.
        neighbours: list that the tasks of NEIGHBOURS fill with a dict for each neighbour of each
            test image or query (`neighbours`), the same on all workers; None: they do not.
        opened: filled in by the task: the digest of the network's `weights`, its `compute_dtype`,
            and the fingerprints of the data sets `train` and `test`.
    """

    task: str
    model: str | None = None
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
    features: str | None = None
    test_features: str | None = None
    column: str | None = None
    other: dict | None = None
    neighbours: list | None = None
    opened: dict = dataclasses.field(default_factory=dict)

    @property
    def world(self) -> Communicator:
        """The communicator of all workers."""
        return self.cluster.world if self.cluster else Solo()

    def announce(self, work: Callable, networks: int | None = None) -> None:
        """Passes the coming work to `before`.

        Args:
            work: function that returns cost.Work.
            networks: number of networks; None for the model plus, if `random_init`, an untrained
                one.
        """
        if self.before:
            self.before(work, networks or 1 + self.random_init)

    def frozen_model(self, command="evaluate") -> FrozenModel:
        """Loads the requested network.

        Args:
            command: that prints the type of the products.

        Raises:
            ConfigError: the path has no network, or `resize` is too small.
        """
        if self.other is not None:
            return self._resized(self._other_model())
        choice = choose(self.compute_dtype, "convolution", comm=self.world)
        if self.world.rank == 0:
            print_choice(choice, command)
        frozen = open_model(self.model, choice.dtype, self.stage)
        self.opened["compute_dtype"] = choice.dtype
        self.opened["weights"] = frozen.weights
        return self._resized(frozen)

    def _other_model(self):
        """A network of another program; of its outputs those asked for, or all."""
        layers = (OUTPUTS,) if "all" in self.layers else self.layers
        frozen = open_other(self.model, Wanted(layers, **self.other))
        if self.world.rank == 0:
            print(frozen.trunk.described(), file=sys.stderr, flush=True)
        self.opened["compute_dtype"] = frozen.compute_dtype
        self.opened["weights"] = frozen.weights
        return frozen

    def _resized(self, frozen):
        if self.resize is None:
            return frozen
        if self.resize < frozen.resolution:
            raise ConfigError(
                f"--resize is {self.resize}; the network's crop needs at least {frozen.resolution}."
            )
        return dataclasses.replace(frozen, short_side=self.resize)

    def splits(self) -> tuple[Split, Split]:
        """Opens the labelled data sets.

        Raises:
            ConfigError: a data set is missing or has no labels.
        """
        for name in ("train", "test"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is missing; give a data set with labels.")
        splits = open_splits(self.train, self.test)
        for name, split in zip(("train", "test"), splits, strict=True):
            self.opened[name] = split.reader.dataset.fingerprint()
        return splits


def read(
    task: str | None, config_files=(), params_override=(), wanted=protocols.AUTO, **under
) -> protocols.Asked:
    """Reads the task and its settings; the protocol may still depend on network and data.

    Args:
        task: name; None for the one that a file names (`task: knn`).
        config_files: paths of YAML files with settings of the protocol.
        params_override: settings that take precedence over the files; see `settings.read`.
        wanted: "paper", "small" or "auto".
        under: settings that apply if the task has them; the files take precedence.

    Raises:
        ConfigError: an unknown task, protocol or setting, or an invalid value.
    """
    given = settings.read(config_files, params_override)
    named = given.pop("task", None)
    if task and named and task != named:
        raise ConfigError(f"--task is {task}, but {', '.join(config_files)} is for {named}.")
    name = task or named
    check_task(name)
    module = importlib.import_module(TASKS[name])
    return protocols.read(module, name, given, config_files, wanted, **under)
