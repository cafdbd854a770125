"""Embeds images, and clusters and measures features."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence

from dc_tf.api.arguments import Path, names_of, path_or_none, several, takes_arguments
from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import COMMAND_OPTIONS

if typing.TYPE_CHECKING:
    import numpy as np

    from dc_tf.clustering.lloyd import KMeansResult
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.evaluation.start import Evaluation
    from dc_tf.nn.trunk import Trunk


@takes_arguments()
def embed(
    model: Path | Trunk,
    data: Path | Dataset | None = None,
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
    images: Path | None = None,
    preprocessing: str | None = None,
    signature: str = "",
    with_sources: bool = False,
) -> np.ndarray | dict | tuple | None:
    """Features of every image of a data set: as an array, or as files.

    >>> features = dc_tf.embed("MODEL", "scenes", layer="conv4")
    >>> features.shape, features.dtype
    ((96, 8), dtype('float32'))
    >>> dc_tf.embed("MODEL", "scenes", ["conv4", "fc7"], output="FEATURES")["dims"]
    {'conv4': 8, 'fc7': 64}
    >>> features, sources = dc_tf.embed("MODEL", "scenes", layer="conv4", with_sources=True)
    >>> sources == dc_tf.sources_of("scenes")
    True

    Args:
        model: run folder, SavedModel, or a network of `load_trunk`; or a SavedModel, Keras or ONNX
            file of another program, or a TensorFlow Hub address.
        data: data set folder, or one of `open_dataset`.
        layer: conv1..conv13, fc6, fc7 of VGG-16; conv1, block1_1..block4_2 (ResNet-50: block4_3),
            pool of a ResNet; several of them, or "all"; None takes the one that `evaluate` has
            measured as the best of the model, the one that is clustered if nothing was measured.
            Of a network of another program: an output, or of Keras files any layer; None takes
            the only output.
        output: folder for `.npy` files; None returns arrays.
        stage: of a run: take it as it was when this stage ended.
        random_init: features of an untrained network of the model's shape, to compare with.
        seed: of the untrained network.
        cells: maps are averaged over `cells` x `cells` parts.
        mirror: average the features of each image and of its mirror image.
        dtype: of the result, "float32" or "float16".
        compute_dtype: of the products, "float32", "bfloat16", or "auto", which measures the faster.
        batch_size: images at a time.
        rows_per_file: images per file.
        max_bad_share: share of corrupt images that may be replaced by others.
        images: in place of `data`, with `output`: folder of images, or what else `convert` takes;
            it is converted to the data set OUTPUT.data, which stays.
        preprocessing: of a network of another program that does not state it: a preset (imagenet,
            clip, inception, caffe, 0-1, -1-1, 0-255), settings over one, or a YAML file.
        signature: of a SavedModel of another program.
        with_sources: also return the file that each row was made of. With `output` it is written
            beside the features in any case.

    Returns:
        (rows, d) array in the order of row ids, of several layers a dict of arrays; with
        `with_sources`, that and a list of file names in the same order; with `output`, dict of
        output, rows, files, dims and where the features are from, None on workers other
        than the chief.

    Raises:
        ConfigError: a setting that cannot work, or a folder with features of something else.
        DataError: a data set or model that cannot be used.
        Preempted: after Ctrl-C, with `output`; what was computed is kept.
    """
    from dc_tf.evaluation.frozen.start import embed_arrays, embed_files

    asked = {
        "layers": None if layer is None else names_of(layer),
        "stage": stage,
        "random_init": random_init,
        "seed": seed,
        "cells": cells,
        "mirror": mirror,
        "dtype": dtype,
        "compute_dtype": compute_dtype,
        "batch_size": batch_size,
        "max_bad_share": max_bad_share,
        "preprocessing": preprocessing,
        "signature": signature,
    }
    if output is not None:
        return embed_files(
            model, data, os.fspath(output), rows_per_file, images=path_or_none(images), **asked
        )
    if images is not None or data is None:
        raise ConfigError("images is for files; give an output, or convert them and give data.")
    sources = [] if with_sources else None
    arrays = embed_arrays(model, data, sources, **asked)
    found = arrays.popitem()[1] if len(arrays) == 1 else arrays
    return (found, sources) if with_sources else found


@takes_arguments(input="x")
def kmeans(
    x: np.ndarray | Path | Sequence[Path],
    k: int | None = None,
    output: Path | None = None,
    *,
    iterations: int = COMMAND_OPTIONS.iterations,
    init: str | np.ndarray = COMMAND_OPTIONS.init,
    seed: int = 0,
    precision: str = COMMAND_OPTIONS.precision,
    backend: str = COMMAND_OPTIONS.backend,
    spherical: bool = COMMAND_OPTIONS.spherical,
    normalize: bool = False,
    tolerance: float = COMMAND_OPTIONS.tolerance,
    cache_gb: float = COMMAND_OPTIONS.cache_bytes / 1e9,
    overwrite: bool = False,
    save_every_s: float = 60.0,
    timeout_s: float = 600.0,
    column: str | None = None,
    id_column: str | None = None,
    format: str = "npy",
) -> KMeansResult | None:
    """Clusters the rows of an array in memory, or of files that may be larger than memory.

    >>> clusters = dc_tf.kmeans(features, k=5)
    >>> clusters.centroids.shape, clusters.assignments.shape, len(clusters.objective)
    ((5, 8), (96,), 11)
    >>> np.save("features.npy", features)
    >>> dc_tf.kmeans("features.npy", k=5, output="CLUSTERS").assignments.shape
    (96,)
    >>> dc_tf.kmeans(features[:3], init=clusters.centroids, iterations=0).assignments.shape
    (3,)

    Args:
        x: (rows, dim) floating array; or a `.npy`, `.npz`, Parquet or Arrow file, a pattern
            ("shards/*.npy"), an output folder of `embed` with one layer, or a list of these, whose
            rows follow one another.
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
        column: with the vectors: a list column of a table, a pattern of columns of one number each
            ("f*"), or an array of an `.npz` archive; None: the only one there is.
        id_column: of a table, with `output`: written beside the clusters to `assignments.parquet`.
        format: with `output`, "npy", or "parquet", which writes `assignments.parquet` as well.

    Returns:
        KMeansResult: centroids (k, dim) float32, or float64 for float64 rows that float32 cannot
        tell apart, assignments (rows,) int32, counts (k,) int64, objective (sum of squared
        distances before each iteration and at the end), iterations and more; None on workers other
        than the chief.

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
        "column": column,
        "id_column": id_column,
        "format": format,
    }
    if output is None:
        return cluster_in_memory(x, **options)
    start = prepare(input=x, output=os.fspath(output), **options)
    return start.output.read() if start.run() else None


@takes_arguments(config_file="config_files")
def evaluate(
    task: str | None,
    model: Path | None = None,
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
    neighbours: Path | None = None,
    watch_dir: Path | None = None,
    timeout_s: float = 600.0,
    scratch: Path | None = None,
    features: Path | None = None,
    test_features: Path | None = None,
    column: str | None = None,
    preprocessing: str | None = None,
    signature: str = "",
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
        model: SavedModel or run folder. "nmi": run folder, or output of `kmeans`. "knn",
            "linear_probe", "low_shot": also a network of another program, as of `embed`.
        train: labelled data set to learn from, a VOC development kit, or for "retrieval" a folder
            of other images.
        test: labelled data set to measure on, or for "retrieval" a folder with a ground truth.
        layer: as of `embed`, but for None.
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
        neighbours: CSV file, of "knn" with the nearest training images of each test image in the
            best layer, of "retrieval" with the first images of each query, by file name.
        watch_dir: of several workers: folder in which they watch one another.
        timeout_s: with `watch_dir`, seconds that a worker may be silent or do nothing.
        scratch: folder for features that memory cannot hold.
        features: in place of `model`, for these and "retrieval": features of the images of
            `train`, as of `search`; and of `test`, where both are views of the data set of these
            features.
        test_features: those of the images of `test`, if they are others.
        column: of both, as of `search`.
        preprocessing: of a network of another program, as of `embed`.
        signature: of a SavedModel of another program.

    Returns:
        dict of metrics by name, with the settings that they were measured with; its attribute
        `table` is the same as text to read. None on workers other than the chief.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: a data set or model that cannot be used.
    """
    from dc_tf.evaluation import start

    paths = {"train": train, "test": test, "output": output, "plot": plot}
    paths |= {"neighbours": neighbours}
    paths |= {"watch_dir": watch_dir, "scratch": scratch, "model": model}
    paths |= {"features": features, "test_features": test_features}
    paths = {name: None if path is None else os.fspath(path) for name, path in paths.items()}
    found = start.evaluate(
        task=task,
        layers=names_of(layer),
        config_files=several(config_files),
        params_override=several(params_override),
        protocol=protocol,
        stage=stage,
        random_init=random_init,
        estimate=estimate,
        compute_dtype=compute_dtype,
        resize=resize,
        seed=seed,
        timeout_s=timeout_s,
        preprocessing=preprocessing,
        signature=signature,
        column=column,
        **paths,
    )
    if found is not None:
        found.write(paths["output"], paths["plot"], paths["neighbours"])
    return found
