"""Features of a data set from what was asked for: what is refused, the model, its layers, the work.

    about = embed_files("/models/mine", DATA, "/data/features")
    arrays = embed_arrays("/models/mine", DATA, layers=["fc7"])    # {"fc7": (rows, d)}

TensorFlow, which takes seconds to import, comes after all that can be refused without it.
"""

import contextlib
import os
import sys

from dc_tf import paths
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.joined import joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError

COMPUTE_DTYPES = ("auto", "float32", "bfloat16")


def embed_files(model, data, output, rows_per_file=1_000_000, comm=None, **asked) -> dict | None:
    """Writes the features of every image as `.npy` files.

    The workers that TF_CONFIG names share the work, unless the caller has joined them.

    Args:
        model: path of a SavedModel or a run; or a trunk, a built `nn.trunk.Trunk`.
        data: path of a data set, or a Dataset.
        output: folder for the files.
        rows_per_file: as of `embed.embed`.
        comm: Communicator of the workers, where the caller has joined them; None joins them here.
        asked: as of `embed_arrays`.

    Returns:
        `output` and what `embed.json` in it says; None on workers other than the first.

    Raises:
        ConfigError: what cannot work.
        DataError: a data set or model that cannot be used.
        Preempted: the process was asked to stop; what was computed is kept.
    """
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    paths.check_folder(output, "--output")
    begun = _Asked(model, data, output, **asked)
    with contextlib.ExitStack() as end:
        if comm is None:
            comm = end.enter_context(joined(f"--output={output}", output))
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
        return None if comm.rank else {"output": output, **about}


def embed_arrays(model, data, **asked) -> dict:
    """The features of every image, in memory.

    Args:
        model, data: as of `embed_files`.
        asked: layers, names of some or None for the one that measured best; stage, of a run;
            random_init and seed, of an untrained network in place of the model; cells, mirror,
            dtype, compute_dtype, batch_size and max_bad_share as of `embed.embed`.

    Returns:
        {layer: (rows, d) array}, rows in the order of their ids.

    Raises:
        ConfigError, DataError: as of `embed_files`.
    """
    begun = _Asked(model, data, None, **asked)
    from dc_tf.distributed.collectives import ALONE

    begun.open(ALONE)
    from dc_tf.evaluation.frozen.embed import embed_in_memory

    return embed_in_memory(begun.frozen, begun.dataset, begun.layers, **begun.numbers)


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
    ):
        """Checks what can be checked without TensorFlow."""
        _check(compute_dtype, max_bad_share)
        self.dataset = data if isinstance(data, Dataset) else Dataset.open(data)
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
        from dc_tf.distributed.collective_errors import raise_on_all
        from dc_tf.evaluation.frozen.embed import compute_dtype
        from dc_tf.evaluation.frozen.features import parse_layers
        from dc_tf.evaluation.models import network_class, of_trunk, open_model, random_init
        from dc_tf.precision import tell

        model = self._model
        with raise_on_all(comm):
            network = network_class(os.fspath(model)) if _is_path(model) else model
            layers = self._layers and parse_layers(self._layers, network.layer_names)
        if _is_path(model):
            choice = compute_dtype(self._output, self._compute_dtype, comm)
            if comm.rank == 0:
                tell(choice, "embed")
        with raise_on_all(comm):
            if _is_path(model):
                self.frozen = open_model(os.fspath(model), choice.dtype, self._stage)
            else:
                self.frozen = of_trunk(model)
            self.layers = layers or self._chosen_layers(comm)
            if self._seed is not None:
                self.frozen = random_init(self.frozen, self._seed)

    def _chosen_layers(self, comm):
        from dc_tf.evaluation.frozen.embed import choose_layers

        if not _is_path(self._model):
            return (self._model.feature_layer,)
        layers, reason = choose_layers(self.frozen, self._output, self.numbers["cells"])
        if comm.rank == 0:
            print(reason, file=sys.stderr, flush=True)
        return layers


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
