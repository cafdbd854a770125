"""An evaluation from what was asked for to its result: protocol, cost, metrics.

    asked = tasks.read("linear_probe", params_override=["epochs=5"])
    result, table = run(asked, Request("linear_probe", model=..., train=..., test=...))

Before the long part it prints, on the chief, which protocol is taken and why, and what the
work will cost on the machines in use. Metrics by layer are remembered beside the model.
"""

import dataclasses
import gc
import sys
import time

import dc_tf
from dc_tf import versions
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.voc.devkit import list_length
from dc_tf.evaluation import cost, protocols
from dc_tf.evaluation.models import network_settings
from dc_tf.evaluation.remembered import remember
from dc_tf.evaluation.task_names import BY_LAYER, DEVKIT

_LONG_S = 900.0  # after which the small protocol is pointed out


def run(asked, request, estimates=True) -> tuple[dict, str]:
    """Measures what was asked for.

    Args:
        asked: protocols.Asked.
        request: tasks.Request.
        estimates: whether to measure first what the work will cost.

    Returns:
        JSON-able dict and a table to print; the same metrics on all workers.

    Raises:
        ConfigError, DataError: those of the task.
    """
    chosen = choose(asked, request)
    say_protocol(asked.task, chosen, request.world)
    timing, spent = {}, {"estimating": 0.0}

    def before(work, networks):
        timing["estimated_s"] = estimate(work(), networks, asked.task, chosen, request.world)
        spent["estimating"] = time.monotonic() - begin

    request = dataclasses.replace(request, before=before if estimates else None)
    begin = time.monotonic()
    found, table = asked.module.run(request, chosen.protocol)
    timing["seconds"] = time.monotonic() - begin - spent["estimating"]
    result = _described(request, chosen, timing) | found
    ours = request.features is None and request.other is None
    if request.world.rank == 0 and request.task in BY_LAYER and ours:
        remember(request.model, result)
    return result, table


def choose(asked, request) -> protocols.Chosen:
    """The protocol, by the network and the data where nothing else decides.

    Raises:
        ConfigError, DataError: the model or the data set cannot be opened.
    """
    if not asked.is_open:
        return asked.choose()
    if request.features is not None:
        chosen = dataclasses.replace(asked, named=protocols.SMALL).choose()
        return dataclasses.replace(chosen, reason="features are given, so no crops are drawn")
    if request.other is not None:
        return asked.choose({}, _images(asked, request.train))
    return asked.choose(network_settings(request.model), _images(asked, request.train))


def _images(asked, train):
    """How many there are to learn from; 0 where the task itself will say that they are missing."""
    if not train or asked.task == "retrieval":  # whose protocol does not depend on it
        return 0
    split = asked.given.get("train_split")
    if asked.task in DEVKIT or split:
        return list_length(train, split or asked.module.Protocol().train_split)
    return Dataset.open(train).rows


def say_protocol(task, chosen, world) -> None:
    """Prints on the chief which protocol is taken and why, where a task has several."""
    if chosen.name:
        _say(f"{task}: protocol {chosen.name}: {chosen.reason}{chosen.alternative}", world)


def estimate(work, networks, task, chosen, world) -> float:
    """Measures some seconds of the work, and prints on the chief what the whole will cost.

    Args:
        work: cost.Work.
        networks: number of networks.
        task: name, for the line.
        chosen: protocols.Chosen.
        world: Communicator of the workers that share the work; all must call this.

    Returns:
        seconds.

    Raises:
        ConfigError, DataError: the errors of the work itself.
    """
    seconds = cost.estimate(work, networks, world)
    protocol = f", protocol {chosen.name}" if chosen.name else ""
    twice = ", trained and random init" if networks == 2 else ""
    machines = f"{world.size} workers" if world.size > 1 else "this machine"
    line = f"{task}{protocol}: {work.text}{twice}: {cost.about(seconds)} on {machines}"
    if chosen.name == protocols.PAPER and seconds > _LONG_S:
        line += "; --protocol=small is far shorter"
    _say(line, world)
    gc.collect()  # frees what was measured before the work itself allocates the same
    return seconds


def _described(request, chosen, timing) -> dict:
    """What was measured, how, and with what."""
    return {
        "task": request.task,
        "model": request.model,
        "stage": request.stage,
        "train": request.train,
        "test": request.test,
        "features": request.features,
        "opened": request.opened,
        "seed": request.seed,
        "compute_dtype": request.opened.pop("compute_dtype", None),
        "resize": request.resize,
        "versions": {"dc_tf": dc_tf.__version__, "tensorflow": versions.of_tensorflow()},
        "protocol": dataclasses.asdict(chosen.protocol),
        "protocol_name": chosen.name,
        "protocol_reason": chosen.reason,
        **timing,
    }


def _say(text, world):
    if world.rank == 0:
        print(text, file=sys.stderr, flush=True)
