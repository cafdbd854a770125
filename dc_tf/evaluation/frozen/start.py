"""Features of a data set from what was asked for: what is refused, the model, its layers, the work.

    about = embed_files("/models/mine", DATA, "/data/features")
    about = embed_files("theirs.onnx", None, "/data/features", images="photos")
    arrays = embed_arrays("/models/mine", DATA, layers=["fc7"])    # {"fc7": (rows, d)}

TensorFlow, which takes seconds to import, comes after all that can be refused without it.
"""

import contextlib
import os
import sys

from dc_tf import paths
from dc_tf.data.convert import convert
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.joined import joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError
from dc_tf.limits import AUTO, COMPUTE_DTYPES
from dc_tf.networks import files
from dc_tf.run_dir import RunDir

CONVERTED = ".data"  # ending of the data set beside the output, of `images`


def embed_files(
    model, data, output, rows_per_file=1_000_000, comm=None, images=None, **asked
) -> dict | None:
    """Writes the features of every image as `.npy` files.

    The workers that TF_CONFIG names share the work, unless the caller has joined them.

    Args:
        model: path of a SavedModel or a run; a trunk, a built `nn.trunk.Trunk`; or path or address
            of a network of another program (`networks.open`).
        data: path of a data set, or a Dataset; None with `images`.
        output: folder for the files.
        rows_per_file: as of `embed.embed`.
        comm: Communicator of the workers, where the caller has joined them; None joins them here.
        images: what `dc_tf convert` takes, such as a folder of images, in place of `data`: it is
            converted to the data set OUTPUT.data, which stays.
        asked: as of `embed_arrays`.

    Returns:
        `output` and what `embed.json` in it says; None on workers other than the chief.

    Raises:
        ConfigError: what cannot work.
        DataError: a data set or model that cannot be used.
        Preempted: the process was asked to stop; what was computed is kept.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    paths.check_folder(output, "--output")
    _check_source(data, images)
    begun = _Asked(model, data, output, **asked)
    with contextlib.ExitStack() as end:
        if comm is None:
            comm = end.enter_context(joined(f"--output={output}", output))
        if images is not None:
            begun.dataset = _converted(images, output, comm)
        begun.open(comm)
        from dc_tf.evaluation.frozen.embed import embed

        about = embed(
            begun.frozen,
            begun.dataset,
            output,
            begun.layers,
            rows_per_file=rows_per_file,
            comm=comm,
            **begun.numbers,
        )
        found = {"data_path": begun.dataset.path} if images is not None else {}
        return None if comm.rank else {"output": output, **found, **about}


def _check_source(data, images):
    if (data is None) == (images is None):
        raise ConfigError(
            "give --data=DATA or --images=FOLDER" + (", not both." if images is not None else ".")
        )


def _converted(images, output, comm) -> Dataset:
    """The data set of a source of images beside the output; the chief makes it."""
    from dc_tf.distributed import heartbeat
    from dc_tf.distributed.collective_errors import raise_on_all

    path = output.rstrip("/") + CONVERTED
    with raise_on_all(comm), heartbeat.slow_operation("conversion of the images"):
        if comm.rank == 0:
            convert(images, path)
    return Dataset.open(path)


def embed_arrays(model, data, sources=None, **asked) -> dict:
    """The features of every image, in memory.

    Args:
        model, data: as of `embed_files`.
        sources: list that gets the file that each row was made of; None for none.
        asked: layers, names of some or None for the one that measured best; stage, of a run;
            random_init and seed, of an untrained network in place of the model; preprocessing, of
            a network of another program, and signature, of its SavedModel; cells, mirror, dtype,
            compute_dtype, batch_size and max_bad_share as of `embed.embed`.

    Returns:
        {layer: (rows, d) array}, rows in the order of their ids.

    Raises:
        ConfigError, DataError: as of `embed_files`.
    """
    begun = _Asked(model, data, None, **asked)
    from dc_tf.distributed.collectives import ALONE

    begun.open(ALONE)
    from dc_tf.evaluation.frozen.embed import embed_in_memory

    how = {"sources": sources, **begun.numbers}
    return embed_in_memory(begun.frozen, begun.dataset, begun.layers, **how)


class _Asked:
    """What was asked for.

    Attributes:
        dataset: Dataset.
        numbers: further arguments of `embed.embed`.
        frozen: models.FrozenModel, after `open`.
        layers: tuple of names, after `open`.
    """

    def __init__(
        self,
        model,
        data,
        output,
        *,
        layers=None,
        stage="",
        random_init=False,
        seed=0,
        cells=1,
        mirror=False,
        dtype="float32",
        compute_dtype="auto",
        batch_size=256,
        max_bad_share=0.0,
        preprocessing=None,
        signature="",
    ):
        """Checks what can be checked without TensorFlow."""
        _check(compute_dtype, max_bad_share)
        self.dataset = data if data is None or isinstance(data, Dataset) else Dataset.open(data)
        self._other = other_network(model, preprocessing, signature)
        if self._other:
            check_other(model, stage, random_init, compute_dtype)
        self.numbers = {
            "cells": cells,
            "mirror": mirror,
            "dtype": dtype,
            "batch_size": batch_size,
            "max_bad_share": max_bad_share,
        }
        self._model, self._output, self._layers = model, output, layers
        self._stage, self._compute_dtype = stage, compute_dtype
        self._seed = seed if random_init else None

    def open(self, comm) -> None:
        """Opens the model and chooses the layers; every worker of `comm` makes the call."""
        if self._other:
            return self._open_other(comm)
        from dc_tf.distributed.collective_errors import raise_on_all
        from dc_tf.evaluation.frozen.embed import compute_dtype
        from dc_tf.evaluation.frozen.features import parse_layers
        from dc_tf.evaluation.models import network_class, of_trunk, open_model, random_init
        from dc_tf.precision import print_choice

        model = self._model
        with raise_on_all(comm):
            network = network_class(os.fspath(model)) if _is_path(model) else model
            layers = self._layers and parse_layers(self._layers, network.layer_names)
        if _is_path(model):
            path = os.fspath(model)
            choice = compute_dtype(self._output, self._compute_dtype, comm, path)
            if comm.rank == 0:
                print_choice(choice, "embed")
        with raise_on_all(comm):
            if _is_path(model):
                self.frozen = open_model(path, choice.dtype, self._stage)
            else:
                self.frozen = of_trunk(model)
            self.layers = layers or self._chosen_layers(comm)
            if self._seed is not None:
                self.frozen = random_init(self.frozen, self._seed)

    def _open_other(self, comm):
        from dc_tf.distributed.collective_errors import raise_on_all
        from dc_tf.evaluation.frozen.embed import layers_in
        from dc_tf.evaluation.models import open_other
        from dc_tf.networks.network import Wanted

        with raise_on_all(comm):
            layers = self._layers or layers_in(self._output)
            wanted = Wanted(layers and tuple(layers), **self._other)
            self.frozen = open_other(os.fspath(self._model), wanted)
        self.layers = self.frozen.trunk.layer_names
        if comm.rank == 0:
            print(self.frozen.trunk.described(), file=sys.stderr, flush=True)

    def _chosen_layers(self, comm):
        from dc_tf.evaluation.frozen.embed import choose_layers

        if not _is_path(self._model):
            return (self._model.feature_layer,)
        layers, reason = choose_layers(self.frozen, self._output, self.numbers["cells"])
        if comm.rank == 0:
            print(reason, file=sys.stderr, flush=True)
        return layers


def other_network(model, asked, signature) -> dict | None:
    """How to open a network of another program: arguments of `networks.network.Wanted`.

    Args:
        model: path, address, or a trunk.
        asked: preprocessing, as `networks.preprocessing.read` takes it, or None.
        signature: of a SavedModel.

    Returns:
        None for a network of this package.

    Raises:
        ConfigError: settings of other networks for one of this package, or wrong ones.
        DataError: a corrupt file.
    """
    path = os.path.expanduser(os.fspath(model)) if _is_path(model) else ""
    if files.kind_of(path) is not None:
        return {"preprocessing": _read(asked), "signature": signature}
    is_run = path and "://" not in path and os.path.isfile(RunDir(path).config)
    is_ours = not path or files.is_export(path) or is_run
    for name, value in (("preprocessing", asked), ("signature", signature)):
        if value and is_ours:  # what is no network at all is refused when it is opened
            raise ConfigError(
                f"--{name} is of networks of other programs; {path or 'a trunk'} is none, so leave "
                "it out."
            )
    return None


def _read(asked):
    """What a preprocessing asked for means; None where nothing was asked for."""
    if asked is None:
        return None
    from dc_tf.networks.preprocessing import read  # reads settings, which takes time to import

    return read(asked)


def check_other(model, stage, random_init, compute_dtype) -> None:
    """Refuses what only networks of this package have; raises ConfigError."""
    asked = {"stage": stage, "random_init": random_init}
    asked["compute_dtype"] = compute_dtype != AUTO
    for name, value in asked.items():
        if value:
            raise ConfigError(
                f"--{name} is of networks of dc_tf; {model} computes as its program has made it."
            )


def _is_path(model):
    return isinstance(model, str | os.PathLike)


def _check(compute_dtype, max_bad_share):
    if compute_dtype not in COMPUTE_DTYPES:
        raise ConfigError(
            f"--compute_dtype is {compute_dtype!r}; use {', '.join(COMPUTE_DTYPES[:-1])} or "
            f"{COMPUTE_DTYPES[-1]}."
        )
    if not 0 <= max_bad_share < 1:
        raise ConfigError(f"--max_bad_share is {max_bad_share}; use [0, 1).")
