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

from __future__ import annotations

import functools
import inspect
import os
import re
import typing
from collections.abc import Mapping, Sequence

from dc_tf import paths
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError

if typing.TYPE_CHECKING:
    import numpy as np

    from dc_tf.clustering.lloyd import KMeansResult
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.evaluation.start import Evaluation
    from dc_tf.experiment import Experiment
    from dc_tf.nn.vgg16 import VGG16

__all__ = [
    "generate",
    "convert",
    "open_dataset",
    "load_experiment",
    "pretrain",
    "export",
    "load_trunk",
    "embed",
    "kmeans",
    "curate",
    "evaluate",
    "search",
    "find_duplicates",
    "write_clusters",
    "assign",
    "browse",
    "write_report",
]

Path = str | os.PathLike

_COMMAND = r"`[^`]*`|'dc_tf [^']*'"  # what a message says to type in a shell
_FLAG = re.compile(rf"{_COMMAND}|--(\w+)(=?)")


def _front(**names):
    """Decorates a function of this module.

    A request to stop that ended an earlier call does not end this one, and errors name arguments.

    Args:
        names: {flag: argument} of those that differ.
    """

    def decorate(function):
        arguments = inspect.signature(function).parameters
        switches = {name for name, own in arguments.items() if own.annotation == "bool"}
        places = {n for n, own in arguments.items() if re.search(r"\bPath\b", str(own.annotation))}
        known = {name: name for name in arguments} | names

        def rename(match):
            name = known.get(match[1])
            if name is None:  # a command, or a flag of another one
                return match[0]
            return f"{name}=True" if name in switches and not match[2] else f"{name}{match[2]}"

        @functools.wraps(function)
        def call(*args, **kwargs):
            stop_request.reset()
            try:
                bound = inspect.signature(function).bind(*args, **kwargs)
                given = bound.arguments
                given |= {name: _expanded(given[name]) for name in places & given.keys()}
                return function(*bound.args, **bound.kwargs)
            except (ConfigError, DataError) as error:
                error.args = (_FLAG.sub(rename, str(error)),)
                raise

        return call

    return decorate


def _expanded(value):
    """A path, or several, with `~` expanded; other values as they are."""
    if isinstance(value, str | os.PathLike):
        return paths.expand(value)
    if isinstance(value, list | tuple):
        return [_expanded(item) for item in value]
    return value


@_front()
def generate(
    output: Path,
    images: int = 4000,
    size: int = 64,
    seed: int = 0,
    split: str = "train",
    classes: int | None = None,
    rows_per_shard: int = 1000,
    overwrite: bool = False,
) -> dict:
    """Writes a data set of drawn pictures, to try things on.

    >>> dc_tf.generate("scenes", images=96)["rows"]
    96

    Args:
        output: folder of the data set.
        images: how many.
        size: pixels of a side.
        seed: the same seed, the same pictures.
        split: "train" or "test"; no picture is in both.
        classes: keep only this number of the most frequent; None takes all.
        rows_per_shard: rows of a file.
        overwrite: replace a data set that is there.

    Returns:
        dict of output, rows, shards and class_counts.

    Raises:
        ConfigError: a setting out of its range, or an output that is not empty.
    """
    from dc_tf.data.synthetic import generate as lib

    return lib.generate(
        os.fspath(output), images, size, seed, split, classes, rows_per_shard, overwrite=overwrite
    )


@_front()
def convert(
    input: Path,
    output: Path,
    *,
    labels_from_folders: bool = False,
    short_side: int | None = None,
    format: str = "keep",
    quality: int = 92,
    max_pixels: int = 100_000_000,
    drop_duplicates: bool = False,
    drop_blank: bool = False,
    rows_per_shard: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    tfds_data_dir: Path | None = None,
    split: str | None = None,
    encoding: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> dict:
    """Converts images to a data set: a folder, a list, a zip, tar files or a TensorFlow data set.

    >>> made = dc_tf.convert("photos", "DATA", labels_from_folders=True, workers=1)
    >>> made["rows"], made["rejected"], dc_tf.open_dataset("DATA").class_names
    (4, 0, ('cats', 'dogs'))

    Args:
        input: folder with its sub-folders, or a zip file of one; CSV, TSV, JSONL or text file that
            lists images; tar files or images, as a path or pattern; or "tfds:NAME:SPLIT".
        output: folder of the data set.
        labels_from_folders: first-level sub-folders are the classes.
        short_side: pixels; images with a longer short side are downscaled. None: no limit.
        format: "jpeg", "png", or "keep": PNG stays PNG, everything else becomes JPEG.
        quality: JPEG quality of re-encoded images, 1 to 95.
        max_pixels: images whose header states more are rejected without decoding.
        drop_duplicates: reject images with the same size and pixels as an earlier one;
            `find_duplicates` finds those that were compressed or scaled differently.
        drop_blank: reject images of a single colour.
        rows_per_shard: rows of a file; None: files of 256 MiB.
        workers: processes; None: one for each core. They import the main module again, so a script
            that asks for more than one needs `if __name__ == "__main__":`.
        overwrite: replace the data set in the output, or an unfinished one of other settings.
        tfds_data_dir: folder of TensorFlow data sets; None: their default.
        split: sub-folder of the folder or zip file to convert, such as "train"; None: all.
        encoding: of a list, and of the texts in tar files; None: UTF-8.
        value_range: (low, high) values of pixels of more than 8 bits that become black and white;
            None: from the file.

    Returns:
        dict of output, rows, rejected, classes (their number, None without) and rejected_list (path
        of a file with a line for each image that could not be used).

    Raises:
        ConfigError: a setting that cannot work, a missing input, an output that is in use.
        DataError: not one usable image.
        Preempted: after Ctrl-C; the shards that are whole are kept.
    """
    from dc_tf.data.convert import convert as convert_images

    with stop_request.signals_handled():
        return convert_images(
            os.fspath(input),
            os.fspath(output),
            labels_from_folders=labels_from_folders,
            max_short_side=short_side,
            format=format,
            quality=quality,
            max_pixels=max_pixels,
            drop_duplicates=drop_duplicates,
            drop_blank=drop_blank,
            rows_per_shard=rows_per_shard,
            workers=workers,
            overwrite=overwrite,
            tfds_data_dir=tfds_data_dir,
            split=split,
            encoding=encoding,
            value_range=value_range,
        )


@_front()
def open_dataset(path: Path) -> Dataset:
    """Opens a data set of `convert` or `generate`, or of TFRecords that `dc_tf index` has indexed.

    >>> data = dc_tf.open_dataset("scenes")
    >>> data.rows, data.labels().shape, data.class_names[0]
    (96, (96,), 'tree')

    Args:
        path: its folder.

    Returns:
        Dataset: rows, class_names, labels() (rows,) int32 with -1 for none, fingerprint().

    Raises:
        DataError: the folder is missing, incomplete or corrupt.
    """
    from dc_tf.data.storage.manifest import Dataset

    return Dataset.open(path)


@_front(config_file="config_files")
def load_experiment(
    config_files: Path | Sequence[Path] = (),
    params_override: str | Mapping | Sequence[str | Mapping] = (),
    **overrides: object,
) -> Experiment:
    """The settings of a run: the paper's, then those of each file, then the overrides.

    >>> dc_tf.load_experiment("quickstart", "data.path=scenes,stages[0].epochs=3").stages[0].epochs
    3
    >>> rotnet = {"name": "rotnet", "epochs": 1, "clusters": 1, "sub_clusters": 0, "batch_size": 32}
    >>> experiment = dc_tf.load_experiment(
    ...     "quickstart",
    ...     data={"path": "scenes"},
    ...     model={"width": 0.0625, "resolution": 32, "fc": 64, "compute_dtype": "float32"},
    ...     stages=[rotnet],
    ... )

    Args:
        config_files: name of a preset, such as "quickstart" or "deepercluster_yfcc100m", or path of
            a YAML file; or several, of which a later one overrides an earlier one.
        params_override: "a.b=c,stages[0].epochs=3", a mapping, whose names may be dotted, or a list
            of them.
        overrides: settings by name, over those: `seed=3`, `data={"path": DATA}`.

    Returns:
        Experiment; see `dc_tf.experiment` for all settings. They can be read as attributes,
        `experiment.stages[0].epochs`.

    Raises:
        ConfigError: an unknown preset or setting, or a value that cannot work.
    """
    from dc_tf.experiment import load

    return load(_several(config_files), [*_several(params_override), overrides])


@_front()
def pretrain(experiment: Experiment, workdir: Path) -> dict | None:
    """Trains on this worker's share, as TF_CONFIG says; without TF_CONFIG, alone.

    On a folder that has a checkpoint it resumes at the exact step; on one that is finished it
    returns the result again. At the end it writes RUN/clusters.parquet, as `write_clusters` does.

    >>> result = dc_tf.pretrain(experiment, "RUN")
    >>> result["rows"], result["workers"]
    (96, 1)

    Args:
        experiment: of `load_experiment`.
        workdir: run folder, shared by all workers; made if missing.

    Returns:
        dict of rows, workers, rounds, steps, and the last epoch's losses and accuracies; None on
        workers other than the first.

    Raises:
        ConfigError: a setting, data set or folder that cannot work; nothing was started.
        DataError: an image cannot be read, or the loss is not finite.
        Preempted: after Ctrl-C or SIGTERM; what was done is saved.
    """
    from dc_tf.curation.start import write_run_table
    from dc_tf.training.run import train

    result = train(experiment, os.fspath(workdir))
    if result:
        write_run_table(os.fspath(workdir), workers=1)
    return result


@_front(workdir="run")
def export(
    run: Path,
    output: Path,
    *,
    format: str = "saved_model",
    sobel: str = "layer",
    stage: str = "",
    input_range: str = "auto",
    overwrite: bool = False,
) -> dict:
    """Writes the network of a run so that it loads anywhere and can be fine-tuned.

    >>> dc_tf.export("RUN", "MODEL")["outputs"]["fc7"]
    [64]

    Args:
        run: run folder of `pretrain`.
        output: folder of the SavedModel, or file.
        format: "saved_model"; "keras", a `.keras` file of plain layers; "keras_weights", a
            `.weights.h5` file; "onnx".
        sobel: "layer" keeps the fixed Sobel stage; "folded" makes it and conv1 one 5x5 convolution
            on RGB that can be trained.
        stage: take the network as it was when this stage ended; "" for its newest state.
        input_range: of image values: "1" for [0, 1], "255" for 0 to 255, or "auto". A SavedModel
            takes uint8 with each of them, and floats in [0, 1] with "auto". A Keras or ONNX file
            gets every input as float32; with "auto" an image with a value of 2 or more is read as
            0 to 255, another one as [0, 1]. ONNX takes uint8 with "255". All other values, and
            NaN, are refused when the model is called; ONNX returns NaN.
        overwrite: replace what is there.

    Returns:
        dict of export (the output), format, sobel, settings, and of a SavedModel its outputs.

    Raises:
        ConfigError: an output that is there or cannot be made, an unknown choice or stage.
        DataError: the folder is not of a run, or has no checkpoint yet.
    """
    from dc_tf.training.export_run import export_run

    run, output = os.fspath(run), os.fspath(output)
    return export_run(run, output, format, sobel, stage, overwrite, input_range)


@_front()
def load_trunk(model: Path, stage: str = "", compute_dtype: str = "float32") -> VGG16:
    """The trained network, a Keras model of images to the features of every layer.

    >>> trunk = dc_tf.load_trunk("MODEL")
    >>> trunk(np.zeros([2, 32, 32, 3], "float32"), training=False)["fc7"].shape
    TensorShape([2, 64])

    Args:
        model: run folder, or SavedModel of `export` or `dc_tf import_torch`.
        stage: of a run: take it as it was when this stage ended.
        compute_dtype: of the products, "float32" or "bfloat16".

    Returns:
        VGG16: of (b, r, r, 3) float32 images in [0, 1], r = `trunk.settings["resolution"]`, to a
        dict of conv1..conv13 (maps after ReLU), fc6 (after ReLU) and fc7 (before ReLU).

    Raises:
        ConfigError: the path is neither, or the run has no such stage.
        DataError: what it holds is corrupt.
    """
    from dc_tf.evaluation.models import open_model

    return open_model(os.fspath(model), compute_dtype, stage).trunk


@_front()
def embed(
    model: Path | VGG16,
    data: Path | Dataset,
    layer: str | Sequence[str] | None = None,
    output: Path | None = None,
    *,
    stage: str = "",
    random_init: bool = False,
    seed: int = 0,
    cells: int = 1,
    mirror: bool = False,
    dtype: str = "float32",
    compute_dtype: str = "auto",
    batch_size: int = 256,
    rows_per_file: int = 1_000_000,
    max_bad_share: float = 0.0,
) -> np.ndarray | dict:
    """Features of every image of a data set: as an array, or as files.

    >>> features = dc_tf.embed("MODEL", "scenes", layer="conv4")
    >>> features.shape, features.dtype
    ((96, 8), dtype('float32'))
    >>> dc_tf.embed("MODEL", "scenes", ["conv4", "fc7"], output="FEATURES")["dims"]
    {'conv4': 8, 'fc7': 64}

    Args:
        model: run folder, SavedModel, or a network of `load_trunk`.
        data: data set folder, or one of `open_dataset`.
        layer: conv1..conv13, fc6, fc7, several of them, or "all"; None takes the one that
            `evaluate` has measured as the best of the model, fc7 if nothing was measured.
        output: folder for `.npy` files; None returns arrays.
        stage: of a run: take it as it was when this stage ended.
        random_init: features of an untrained network of the model's shape, to compare with.
        seed: of the untrained network.
        cells: maps are averaged over `cells` x `cells` parts.
        mirror: average the features of each image and of its mirror image.
        dtype: of the result, "float32" or "float16".
        compute_dtype: of the products, "float32", "bfloat16", or "auto", which measures the faster.
        batch_size: images at a time.
        rows_per_file: images per file, which are held in memory.
        max_bad_share: share of corrupt images that may be replaced by others.

    Returns:
        (rows, d) array in the order of row ids, of several layers a dict of arrays; with `output`,
        dict of output, rows, files, dims and where the features are from.

    Raises:
        ConfigError: a setting that cannot work, or a folder with features of something else.
        DataError: a data set or model that cannot be used.
        Preempted: after Ctrl-C, with `output`; the files that are whole are kept.
    """
    from dc_tf.evaluation.frozen.start import embed_arrays, embed_files

    asked = {
        "layers": None if layer is None else _names(layer),
        "stage": stage,
        "random_init": random_init,
        "seed": seed,
        "cells": cells,
        "mirror": mirror,
        "dtype": dtype,
        "compute_dtype": compute_dtype,
        "batch_size": batch_size,
        "max_bad_share": max_bad_share,
    }
    if output is not None:
        return embed_files(model, data, os.fspath(output), rows_per_file, **asked)
    arrays = embed_arrays(model, data, **asked)
    return arrays.popitem()[1] if len(arrays) == 1 else arrays


@_front(input="x")
def kmeans(
    x: np.ndarray | Path | Sequence[Path],
    k: int | None = None,
    output: Path | None = None,
    *,
    iterations: int = 10,
    init: str | np.ndarray = "random",
    seed: int = 0,
    precision: str = "auto",
    backend: str = "auto",
    spherical: bool = False,
    normalize: bool = False,
    tolerance: float = 0.0,
    cache_gb: float = 0.25,
    overwrite: bool = False,
    save_every_s: float = 60.0,
    timeout_s: float = 600.0,
) -> KMeansResult | None:
    """Clusters the rows of an array in memory, or of `.npy` files that may be larger than memory.

    >>> clusters = dc_tf.kmeans(features, k=5)
    >>> clusters.centroids.shape, clusters.assignments.shape, len(clusters.objective)
    ((5, 8), (96,), 11)
    >>> np.save("features.npy", features)
    >>> dc_tf.kmeans("features.npy", k=5, output="CLUSTERS").assignments.shape
    (96,)
    >>> dc_tf.kmeans(features[:3], init=clusters.centroids, iterations=0).assignments.shape
    (3,)

    Args:
        x: (rows, dim) floating array; or a `.npy` file, a pattern ("shards/*.npy"), or a list of
            files, whose rows follow one another.
        k: number of clusters; None with centroids as `init`, which have it.
        output: with files: folder for the result, shared by all workers that TF_CONFIG names; a
            call that was stopped resumes there. None: in memory, by this process alone.
        iterations: of Lloyd, at most; 0 with centroids as `init` assigns rows, of any number, to
            these.
        init: "random" rows; "k-means++" or, for large k, "k-means||"; or (k, dim) centroids, with
            `output` the path of a `.npy` file of them.
        seed: of everything that is drawn.
        precision: of the products, "float32", "bfloat16", or "auto", which measures the faster.
        backend: "tensorflow", "faiss" or "auto".
        spherical: keep centroids at length 1, for `normalize`.
        normalize: scale every row to length 1.
        tolerance: stop once an iteration gains no more than this share; 0: never.
        cache_gb: keep the rows in device memory if they take no more than this.
        overwrite: replace a clustering in the output that is finished or another.
        save_every_s: with `output`, seconds between saves; 0: after every iteration.
        timeout_s: with several workers, seconds that one may be silent or do nothing; 0: for ever.

    Returns:
        KMeansResult: centroids (k, dim) float32, or float64 for float64 rows that float32 cannot
        tell apart, assignments (rows,) int32, counts (k,) int64, objective (sum of squared
        distances before each iteration and at the end), iterations and more; None on workers other
        than the first.

    Raises:
        ConfigError: a setting that cannot work; nothing was started.
        DataError: files that cannot be used, rows that are not finite.
        Preempted: after Ctrl-C, with `output`; what was done is saved.
    """
    from dc_tf.clustering.job.start import cluster_in_memory, names_files, prepare

    if output is not None and not names_files(x):
        raise ConfigError("output is for files; np.save the array and give its path as x.")
    if output is not None and not isinstance(init, str | os.PathLike):
        raise ConfigError("init is an array; with output, np.save it and give its path.")
    options = {
        "k": k,
        "iterations": iterations,
        "init": os.fspath(init) if isinstance(init, os.PathLike) else init,
        "seed": seed,
        "precision": precision,
        "backend": backend,
        "spherical": spherical,
        "normalize": normalize,
        "tolerance": tolerance,
        "cache_gb": cache_gb,
        "overwrite": overwrite,
        "save_every_s": save_every_s,
        "timeout_s": timeout_s,
    }
    if output is None:
        return cluster_in_memory(x, **options)
    start = prepare(input=x, output=os.fspath(output), **options)
    return start.output.read() if start.run() else None


@_front()
def curate(
    data: Path | Dataset | None = None,
    output: Path | None = None,
    target: int | None = None,
    *,
    features: Path | Sequence[Path] | None = None,
    run: Path | None = None,
    layer: str | None = None,
    clusters: Path | None = None,
    max_per_cluster: int | None = None,
    drop_outliers: float = 0.0,
    drop_sparsest: float = 0.0,
    drop_rarest: float = 0.0,
    where: str | Sequence[str] | None = None,
    rows: Path | np.ndarray | None = None,
    drop_rows: Path | np.ndarray | None = None,
    choice: str = "random",
    levels: Sequence[int] | None = None,
    rounds: int = 10,
    sample: int | None = None,
    iterations: int = 10,
    seed: int = 0,
    precision: str = "auto",
    normalize: bool = True,
    tree: Path | None = None,
    dry_run: bool = False,
    materialize: Path | None = None,
    format: str = "shards",
    overwrite: bool = False,
    timeout_s: float = 600.0,
) -> dict | None:
    """Chooses a part of a data set, balanced or by other rules, as a view that copies no image.

    >>> chosen = dc_tf.curate("scenes", "BALANCED", 24, features="features.npy", levels=[12, 3])
    >>> dc_tf.open_dataset("BALANCED").rows
    24
    >>> dc_tf.curate("scenes", "FIRST", rows=np.arange(10))["steps"]
    [{'rule': 'rows', 'rows': 10}]

    The rules act in this order: rows, drop_rows, where, drop_outliers, drop_sparsest, drop_rarest,
    max_per_cluster, target.

    Args:
        data: data set folder, or one of `open_dataset`; None with `run` takes the run's.
        output: folder of the view; None with `dry_run`, or to `materialize` alone.
        target: rows of the balanced subset: an even share of each branch of a tree of clusters
            (Vo et al. 2024).
        features: output folder of `embed`, a `.npy` file, a pattern or a list of files.
        run: run folder, for features of its own network.
        layer: of a run, or of a folder with several layers.
        clusters: output of `kmeans`, or a run (its last round), in place of a tree.
        max_per_cluster: keep at most so many rows of a cluster.
        drop_outliers: drop this share of the rows, those farthest from their centroid.
        drop_sparsest: drop whole clusters of at most this share, the most spread out first.
        drop_rarest: drop whole clusters of at most this share, the smallest first.
        where: "meta/hashtag=sea", "class!=cat" or "meta/year>=1984"; of several, all have to hold.
        rows: keep these: array of row ids, `.npy` file, or text file with one a line.
        drop_rows: drop these.
        choice: of a cluster, "random" rows or those "nearest" to its centroid.
        levels: clusters of each level of the tree, from the lowest on; None: by the number of rows.
        rounds: each level is clustered again so often, on equally many rows of every cluster.
        sample: rows of each cluster in these rounds; None: half the average size of a cluster.
        iterations: of each k-means.
        seed: of everything that is drawn.
        precision: of the products, "float32", "bfloat16", or "auto", which measures the faster.
        normalize: scale every row of the features to length 1.
        tree: folder of the tree, made or used again; None: OUTPUT.tree.
        dry_run: only count.
        materialize: folder for a copy of the chosen images.
        format: of that copy, "shards" (a data set) or "webdataset" (tar files).
        overwrite: replace what is in `output` and `materialize`.
        timeout_s: of several workers, seconds that one may be silent; 0: for ever.

    Returns:
        dict of output, rows, of, steps (rows that each rule has left), corrupt, classes and
        clusters (how evenly rows are spread before and after) and materialized; None on workers
        other than the first.

    Raises:
        ConfigError: a rule or setting that cannot work; nothing was started.
        DataError: data or features that cannot be used, or no row is left.
        Preempted: after Ctrl-C; what was done is saved.
    """
    from dc_tf.curation.curate import curate as choose

    paths = {"output": output, "run": run, "clusters": clusters, "tree": tree}
    paths |= {"materialize": materialize, "data": data, "rows": rows, "drop_rows": drop_rows}
    return choose(
        **{name: os.fspath(p) if isinstance(p, os.PathLike) else p for name, p in paths.items()},
        features=features,
        layer=layer,
        target=target,
        max_per_cluster=max_per_cluster,
        drop_outliers=drop_outliers,
        drop_sparsest=drop_sparsest,
        drop_rarest=drop_rarest,
        where=tuple(_several(where)) if where is not None else (),
        choice=choice,
        levels=None if levels is None else tuple(levels),
        rounds=rounds,
        sample=sample,
        iterations=iterations,
        seed=seed,
        precision=precision,
        normalize=normalize,
        dry_run=dry_run,
        format=format,
        overwrite=overwrite,
        timeout_s=timeout_s,
    )


@_front(config_file="config_files")
def evaluate(
    task: str | None,
    model: Path,
    train: Path | None = None,
    test: Path | None = None,
    *,
    layer: str | Sequence[str] = "all",
    config_files: Path | Sequence[Path] = (),
    params_override: str | Mapping | Sequence[str | Mapping] = (),
    protocol: str = "auto",
    stage: str = "",
    random_init: bool = True,
    estimate: bool = True,
    compute_dtype: str = "auto",
    resize: int | None = None,
    seed: int = 0,
    output: Path | None = None,
    plot: Path | None = None,
    watch_dir: Path | None = None,
    timeout_s: float = 600.0,
    scratch: Path | None = None,
) -> Evaluation | None:
    """Measures what was learned, and an untrained network beside it.

    >>> found = dc_tf.evaluate(
    ...     "knn", "MODEL", train="scenes", test="scenes_test", layer="conv4", estimate=False
    ... )
    >>> 0 <= found["layers"]["conv4"]["top1"] <= 1
    True

    Args:
        task: "knn", "linear_probe", "low_shot", "finetune", "retrieval", "nmi", "rotation",
            "voc07_classification" or "voc07_detection"; None takes the one that a file names.
        model: SavedModel or run folder. "nmi": run folder, or output of `kmeans`.
        train: labelled data set to learn from, a VOC development kit, or for "retrieval" a folder
            of other images.
        test: labelled data set to measure on, or for "retrieval" a folder with a ground truth.
        layer: conv1..conv13, fc6, fc7, several of them, or "all".
        config_files: preset, such as "linear_probe_voc07", or path of a YAML file; or several.
        params_override: settings over those of the files: "a=1,b=2", a mapping, or a list of them.
        protocol: "paper", "small", or "auto": by the size of network and data.
        stage: of a run: take it as it was when this stage ended.
        random_init: measure an untrained network too.
        estimate: measure for some seconds first what it will cost, and print that.
        compute_dtype: of the products, "float32", "bfloat16", or "auto", which measures the faster.
        resize: pixels of the short side before the centre crop; None: the model's own.
        seed: of the untrained network, classifiers and augmentation.
        output: JSON file for the result.
        plot: picture of accuracy by layer.
        watch_dir: of several workers: folder in which they watch one another.
        timeout_s: with `watch_dir`, seconds that a worker may be silent or do nothing.
        scratch: folder for features that memory cannot hold.

    Returns:
        dict of metrics by name, with the settings that they were measured with; its attribute
        `table` is the same as text to read. None on workers other than the first.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: a data set or model that cannot be used.
    """
    from dc_tf.evaluation import start

    paths = {"train": train, "test": test, "output": output, "plot": plot}
    paths |= {"watch_dir": watch_dir, "scratch": scratch}
    paths = {name: None if path is None else os.fspath(path) for name, path in paths.items()}
    found = start.evaluate(
        task=task,
        model=os.fspath(model),
        layers=_names(layer),
        config_files=_several(config_files),
        params_override=_several(params_override),
        protocol=protocol,
        stage=stage,
        random_init=random_init,
        estimate=estimate,
        compute_dtype=compute_dtype,
        resize=resize,
        seed=seed,
        timeout_s=timeout_s,
        **paths,
    )
    if found is not None:
        found.write(paths["output"], paths["plot"])
    return found


@_front(query="queries")
def search(
    queries: Path | int | Sequence[Path | int],
    run: Path | None = None,
    features: Path | Sequence[Path] | None = None,
    data: Path | None = None,
    layer: str | None = None,
    *,
    k: int = 10,
    exact: bool = False,
    whiten: int = 256,
    output: Path | None = None,
    sheet: Path | None = None,
    model: Path | None = None,
) -> dict:
    """Finds the images of a collection that are nearest to some images.

    >>> near = dc_tf.search(["photos/cats/0.png", 7], "RUN", layer="conv4", k=3)
    >>> [(one["query"], one["rank"]) for one in near["neighbours"]][2:4]
    [('photos/cats/0.png', 3), ('7', 1)]
    >>> dc_tf.search(0, features="FEATURES", data="scenes", layer="conv4")["search"]
    'exact'

    Args:
        queries: image file, or row id of the collection, or several of them.
        run: run folder: features of its own network over its data set, made if they are missing.
        features: without `run`: output folder of `embed`, or `.npy` files with a row for each
            image: a file, a pattern, or a list.
        data: data set folder of `features`, needed for a sheet and for sources; with `run` only
            where it was moved.
        layer: one of conv1..conv13, fc6, fc7; None takes the only one of `features`, or of `run`
            the one that `evaluate` has measured as the best.
        k: neighbours of each query.
        exact: compare with every row, also where there are more than a million.
        whiten: directions that the features are whitened to; 0 compares them as they are.
        output: table to write, .csv, .json or .parquet.
        sheet: picture to write, .jpg or .png, with a line for each query.
        model: run or SavedModel that made `features`, where it was moved since.

    Returns:
        dict of rows, layer, whitened, queries (their number), search (how; of an inverted file,
        with its recall), recall, and neighbours: a list of dict of query, rank, row, source and
        similarity (cosine).

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: a query or data that cannot be used.
        Preempted: after Ctrl-C; features and parts of an index that are complete are kept.
    """
    from dc_tf.curation.search import search_and_write

    return search_and_write(
        _queries(queries),
        _path(run),
        features if features is None or isinstance(features, list | tuple) else _path(features),
        _path(data),
        layer,
        k=k,
        exact=exact,
        whiten=whiten,
        output=_path(output),
        sheet=_path(sheet),
        model=_path(model),
    )


@_front()
def find_duplicates(
    run: Path | None = None,
    features: Path | Sequence[Path] | None = None,
    data: Path | None = None,
    layer: str | None = None,
    output: Path | None = None,
    *,
    clusters: Path | None = None,
    dry_run: bool = False,
    threshold: float = 0.8,
    whiten: int = 256,
    pixels: bool = True,
    workers: int | None = None,
    k: int = 0,
    neighbours: int = 4,
    seed: int = 0,
    format: str = "parquet",
    groups: int = 100,
    overwrite: bool = False,
) -> dict:
    """Finds copies in a collection, and which image of each group to keep; deletes nothing.

    >>> copies = dc_tf.find_duplicates("RUN", output="COPIES")
    >>> dc_tf.open_dataset("COPIES/kept").rows == 96 - copies["would_go"]
    True

    Args:
        run: run folder, as of `search`.
        features: without `run`: features of the images, as of `search`.
        data: data set folder, as of `search`; without it only near copies are looked for.
        layer: as of `search`; of `run`, None takes conv9 in 2 x 2 cells of image
            and mirror image, which finds copies best.
        output: folder for the table, the rows to keep, a view of them and a gallery.
        clusters: run, or output of `kmeans` over `features`, to look within its clusters; None
            makes some.
        dry_run: only count; without `output`.
        threshold: least cosine of near copies, above 0 and at most 1.
        whiten: directions that the features are whitened to; 0 compares them as they are.
        pixels: decode all images, to find equal pixels in different files.
        workers: processes that decode images; None: one for each core. More than one import the
            main module again, as of `convert`.
        k: clusters that are made; 0: one up to 32,768 rows, else the square root of their number.
        neighbours: clusters next to a row's own that it is compared with.
        seed: of the clusters that are made.
        format: of the table, "parquet" or "csv".
        groups: groups in the gallery.
        overwrite: replace a result of other settings in `output`.

    Returns:
        dict of rows, groups, would_go, share, by_kind, below_threshold (copies of copies that are
        less like the one that stays), corrupt, clusters, dry_run and output.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; what was compared is kept in `output`.
    """
    from dc_tf.report.duplicates import find_and_write

    return find_and_write(
        _path(run),
        features if features is None or isinstance(features, list | tuple) else _path(features),
        _path(data),
        layer,
        clusters=_path(clusters),
        output=_path(output),
        dry_run=dry_run,
        threshold=threshold,
        whiten=whiten,
        pixels=pixels,
        workers=workers,
        k=k,
        neighbours=neighbours,
        seed=seed,
        format=format,
        groups=groups,
        overwrite=overwrite,
    )


@_front(round="round_index")
def write_clusters(
    output: Path,
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    data: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    format: str | None = None,
    workers: int | None = None,
) -> dict:
    """Writes which image is in which cluster: a table with a row per image.

    >>> made = dc_tf.write_clusters("clusters.parquet", clusters="CLUSTERS", data="scenes")
    >>> made["rows"], made["columns"][:4]
    (96, ['row', 'file', 'cluster', 'distance'])

    Args:
        output: file; its ending is .parquet, .csv or .json.
        run: run folder.
        clusters: without `run`: output folder of `kmeans`.
        data: data set that was clustered; with `run` only where it was moved.
        stage: of a run: its last clustering in this stage; "" for the last of all.
        round_index: of a run: index of the clustering in its stage; None for the last.
        format: "parquet", "csv" or "json"; None goes by the ending of `output`.
        workers: processes that read images; None: one per core. More than one import the main
            module again, as of `convert`.

    Returns:
        dict of output, rows, clusters, columns and corrupt_rows.

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; the same call resumes.
    """
    from dc_tf.curation.start import write_clusters as write

    return write(
        output,
        format,
        workers,
        run=run,
        clusters=clusters,
        data=data,
        stage=stage,
        round_index=round_index,
    )


@_front(round="round_index")
def assign(
    data: Path,
    output: Path,
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    features: Path | None = None,
    format: str | None = None,
) -> dict:
    """Assigns the images of a data set to the clusters of a run, or of `kmeans`.

    >>> new = dc_tf.assign("scenes", "new.parquet", clusters="CLUSTERS", features="features.npy")
    >>> new["rows"]
    96

    Args:
        data: data set with the images to assign.
        output: file; its ending is .parquet, .csv or .json.
        run: run folder that has kept its newest clusterings.
        clusters: without `run`: output folder of `kmeans`.
        stage: of a run: its last kept clustering in this stage; "" for the last of all.
        round_index: of a run: index of the clustering in its stage; None for the last.
        features: with `clusters` of vectors that `embed` has not made: the vectors of `data`.
        format: "parquet", "csv" or "json"; None goes by the ending of `output`.

    Returns:
        dict of output, rows, clusters, columns and corrupt_rows; the columns are those of
        `write_clusters`.

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; the same call resumes.
    """
    from dc_tf.curation.start import assign as assign_to_clusters

    return assign_to_clusters(
        data,
        output,
        format,
        run=run,
        clusters=clusters,
        stage=stage,
        round_index=round_index,
        features=features,
    )


@_front(round="round_index")
def write_report(
    output: Path,
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    data: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    compare: Sequence[Path] = (),
    random_init: bool = False,
    evaluations: Sequence[Path] = (),
    duplicates: Path | None = None,
    sheets: int = 120,
    max_rows: int = 100_000,
    max_mb: float = 25.0,
    overwrite: bool = False,
) -> dict:
    """Writes a report of a run, or of a clustering, as one HTML file that needs no network.

    >>> report = dc_tf.write_report("report.html", run="RUN")
    >>> report["rows"], report["bytes"] < 25e6
    (96, True)

    Args:
        output: HTML file.
        run: run folder.
        clusters: without `run`: output folder of `kmeans`.
        data: data set folder; with `run` only where it was moved.
        stage: of a run: clusters of this stage; "" for the last one.
        round_index: of a run: clustering of the stage; None for the last one.
        compare: run folders, or outputs of `kmeans`, of the same images to set beside it.
        random_init: of a run with up to 20,000 images: compare with clusters of an untrained
            network too.
        evaluations: JSON results of `evaluate` besides those in the run folder.
        duplicates: near-duplicates to show: output of `find_duplicates`, or a Parquet or CSV table
            with the columns row and group.
        sheets: number of clusters whose images are shown.
        max_rows: images whose metadata is read; a sample of more.
        max_mb: largest size of the file; contact sheets are left out for it.
        overwrite: replace a file in `output` that is no report.

    Returns:
        dict of report (the path), bytes, rows, rows_read, clusters, clusters_shown, and left_out,
        sentences about what did not fit.

    Raises:
        ConfigError: what cannot work; nothing was written.
        DataError: data that cannot be used.
    """
    from dc_tf.report.build import make

    return make(
        output=os.fspath(output),
        run=_path(run),
        clusters=_path(clusters),
        data=_path(data),
        stage=stage,
        round_index=round_index,
        compare=[os.fspath(one) for one in compare],
        random_init=random_init,
        evaluation_files=[os.fspath(one) for one in evaluations],
        duplicates=_path(duplicates),
        sheets=sheets,
        max_rows=max_rows,
        max_mb=max_mb,
        overwrite=overwrite,
    )


@_front(round="round_index")
def browse(
    run: Path | None = None,
    *,
    clusters: Path | None = None,
    data: Path | None = None,
    stage: str = "",
    round_index: int | None = None,
    workdir: Path | None = None,
    features: Path | None = None,
    layer: str | None = None,
    model: Path | None = None,
    embed: bool = False,
    table: bool = True,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_remote: bool = False,
) -> dict:
    """Shows clusters in a web browser on this machine until Ctrl-C; for scripts, not notebooks.

    >>> dc_tf.browse("RUN")["selections"]            # doctest: +SKIP
    {'blurred': 12}

    Args:
        run: run folder.
        clusters: without `run`: output folder of `kmeans`.
        data: data set that was clustered; with `run` only where it was moved.
        stage: of a run: its last clustering in this stage; "" for the last of all.
        round_index: of a run: index of the clustering in its stage; None for the last.
        workdir: folder for the index and selections; None: `browser` in that of the run or of the
            clusters.
        features: output of `embed`, or .npy files, for search by example; None: those that the run
            has kept, or that were clustered.
        layer: of a run or `features` with several.
        model: run or model that made the features, where it was moved since.
        embed: of a run: make features at the start if there are none.
        table: make the table for search by text at the start if there is none.
        host: address to listen at.
        port: 0 for a free one.
        allow_remote: whether `host` may be one that other machines reach.

    Returns:
        dict of workdir and selections, {name: number of rows}.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C before it serves; the same call resumes.
    """
    from dc_tf.report.browser.serve import browse as serve
    from dc_tf.report.browser.site import Source

    def path(given):
        return None if given is None else os.fspath(given)

    source = Source(
        run=path(run),
        clusters=path(clusters),
        data=path(data),
        stage=stage,
        round_index=round_index,
        features=path(features),
        layer=layer,
        model=path(model),
        embed=embed,
        table=table,
    )
    return serve(source, path(workdir), host, port, allow_remote)


def _several(given) -> list:
    """One path, text or mapping as a list of one; several as they are."""
    return [given] if isinstance(given, str | os.PathLike | Mapping) else list(given)


def _path(given) -> str | None:
    return None if given is None else os.fspath(given)


def _queries(given) -> list:
    """One file or row id, or several, as a list of str."""
    one = isinstance(given, str | int | os.PathLike) or not hasattr(given, "__iter__")
    return [
        os.fspath(x) if isinstance(x, os.PathLike) else str(x) for x in ([given] if one else given)
    ]


def _names(layer) -> list[str]:
    return layer.split(",") if isinstance(layer, str) else list(layer)
