"""Features of a data set from what was asked for: what is refused, the model, its layers, the work.

    about = embed_files("/models/mine", DATA, "/data/features")
    arrays = embed_arrays("/models/mine", DATA, layers=["fc7"])    # {"fc7": (rows, d)}

TensorFlow, which takes seconds to import, comes after all that can be refused without it.
"""

import os
import sys

from dc_tf import paths
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed import stop_request
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError

COMPUTE_DTYPES = ("auto", "float32", "bfloat16")


def embed_files(model, data, output, rows_per_file=1_000_000, **asked) -> dict:
    """Writes the features of every image as `.npy` files.

    Args:
        model: path of a SavedModel or a run; or a trunk, a built `nn.trunk.Trunk`.
        data: path of a data set, or a Dataset.
        output: folder for the files.
        rows_per_file: as of `embed.embed`.
        asked: as of `embed_arrays`.

    Returns:
        `output` and what `embed.json` in it says.

    Raises:
        ConfigError: what cannot work.
        DataError: a data set or model that cannot be used.
        Preempted: the process was asked to stop; the files that are whole are kept.
    """
    task_from_environment()  # embed works alone, but a wrong TF_CONFIG is refused as elsewhere
    paths.check_folder(output, "--output")
    begun = _Asked(model, data, output, **asked)
    from dc_tf.evaluation.frozen.embed import embed

    with stop_request.signals_handled():
        about = embed(
            begun.frozen,
            begun.dataset,
            output,
            begun.layers,
            rows_per_file=rows_per_file,
            **begun.numbers,
        )
    return {"output": output, **about}


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
    from dc_tf.evaluation.frozen.embed import embed_in_memory

    return embed_in_memory(begun.frozen, begun.dataset, begun.layers, **begun.numbers)


class _Asked:
    """What was asked for, opened.

    Attributes:
        dataset: Dataset.
        frozen: models.FrozenModel.
        layers: tuple of names.
        numbers: further arguments of `embed.embed`.
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
        _check(compute_dtype, max_bad_share)
        self.dataset = data if isinstance(data, Dataset) else Dataset.open(data)
        self.numbers = {
            "cells": cells,
            "mirror": mirror,
            "dtype": dtype,
            "batch_size": batch_size,
            "max_bad_share": max_bad_share,
        }
        # After all that can be checked without TensorFlow.
        from dc_tf.evaluation.frozen.embed import choose_layers
        from dc_tf.evaluation.frozen.features import parse_layers
        from dc_tf.evaluation.models import network_class
        from dc_tf.evaluation.models import random_init as untrained

        network = network_class(os.fspath(model)) if _is_path(model) else model
        self.layers = layers and parse_layers(layers, network.layer_names)
        self.frozen = _frozen(model, output, compute_dtype, stage)
        if not self.layers and not _is_path(model):
            self.layers = (network.feature_layer,)
        if not self.layers:
            self.layers, reason = choose_layers(self.frozen, output, cells)
            print(reason, file=sys.stderr, flush=True)
        if random_init:
            self.frozen = untrained(self.frozen, seed)


def _frozen(model, output, asked, stage):
    """The network, in the type of its products that is the faster, or that `output` has."""
    from dc_tf.evaluation.frozen.embed import compute_dtype
    from dc_tf.evaluation.models import of_trunk, open_model
    from dc_tf.precision import tell

    if not _is_path(model):
        return of_trunk(model)
    choice = compute_dtype(output, asked)
    tell(choice, "embed")
    return open_model(os.fspath(model), choice.dtype, stage)


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
