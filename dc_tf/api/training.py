"""Trains, and takes the network out."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence

from dc_tf.api.arguments import Path, path_or_none, several, takes_arguments
from dc_tf.errors import ConfigError

if typing.TYPE_CHECKING:
    from dc_tf.experiment import Experiment
    from dc_tf.nn.trunk import Trunk


@takes_arguments(config_file="config_files")
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

    return load(several(config_files), [*several(params_override), overrides])


@takes_arguments()
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
        workers other than the chief.

    Raises:
        ConfigError: a setting, data set or folder that cannot work; nothing was started.
        DataError: an image cannot be read, or the loss is not finite.
        Preempted: after Ctrl-C or SIGTERM; what was done is saved.
    """
    from dc_tf.curation.clusters.start import write_run_table
    from dc_tf.training.run import train

    result = train(experiment, os.fspath(workdir))
    if result:
        write_run_table(os.fspath(workdir), workers=1)
    return result


@takes_arguments(workdir="run")
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
        format: "saved_model"; "keras" or "keras3", a `.keras` file of plain layers; "onnx";
            "tflite"; "keras_weights", a `.weights.h5` file; weights of PyTorch: "torch" or
            "torchvision", a `.pth` file, or "safetensors" for timm. See `dc_tf export`.
        sobel: "layer" keeps the fixed Sobel stage; "folded" makes it and conv1 one convolution on
            RGB, larger by 2, that can be trained.
        stage: take the network as it was when this stage ended; "" for its newest state.
        input_range: of image values: "1" for [0, 1], "255" for 0 to 255, or "auto". A SavedModel
            takes uint8 with each of them, and floats in [0, 1] with "auto". A Keras or ONNX file
            gets every input as float32; with "auto" an image with a value of 2 or more is read as
            0 to 255, another one as [0, 1]; so do TFLite files. ONNX and TFLite take uint8 with
            "255". All other values, and NaN, are refused when the model is called; ONNX, TFLite and
            Keras 3 return NaN.
        overwrite: replace what is there.

    Returns:
        dict of export (the output), format, sobel, trunk, settings, and of a SavedModel its
        outputs.

    Raises:
        ConfigError: an output that is there or cannot be made, an unknown choice or stage.
        DataError: the folder is not of a run, or has no checkpoint yet.
    """
    from dc_tf.training.export_run import export_run

    run, output = os.fspath(run), os.fspath(output)
    return export_run(run, output, format, sobel, stage, overwrite, input_range)


@takes_arguments()
def load_trunk(model: Path, stage: str = "", compute_dtype: str = "float32") -> Trunk:
    """The trained network, a Keras model of images to the features of every layer.

    >>> trunk = dc_tf.load_trunk("MODEL")
    >>> trunk(np.zeros([2, 32, 32, 3], "float32"), training=False)["fc7"].shape
    TensorShape([2, 64])

    Args:
        model: run folder, or SavedModel of `export` or `dc_tf import_torch`.
        stage: of a run: take it as it was when this stage ended.
        compute_dtype: of the products, "float32", "bfloat16", or "auto", which measures the faster.

    Returns:
        Trunk: of (b, r, r, 3) float32 images in [0, 1], r = `trunk.settings["resolution"]`, to a
        dict of `trunk.layer_names`: of VGG-16 conv1..conv13 (maps after ReLU), fc6 (after ReLU) and
        fc7 (before ReLU), of a ResNet conv1, block1_1.. (maps after ReLU) and pool.

    Raises:
        ConfigError: the path is neither, the run has no such stage, or bfloat16 cannot be used.
        DataError: what it holds is corrupt.
    """
    from dc_tf.evaluation.models import open_model
    from dc_tf.precision import choose, print_choice

    choice = choose(compute_dtype, "convolution")
    print_choice(choice, "load_trunk")
    return open_model(os.fspath(model), choice.dtype, stage).trunk


@takes_arguments()
def run_sweep(
    config_file: Path | Mapping,
    workdir: Path,
    data: Path | None = None,
    train: Path | None = None,
    test: Path | None = None,
    *,
    at_once: int = 1,
    workers: int = 1,
    threads: int | None = None,
    dry_run: bool = False,
    measure: bool = False,
) -> dict:
    """Trains and evaluates the networks of an ablation; `dc_tf sweep` as a function.

    Started again on the same folder, it runs what is missing. Each training and each evaluation is
    a process of its own.

    >>> sweep = {
    ...     "base": "quickstart",
    ...     "settings": {"model": {"width": 0.0625, "resolution": 32, "fc": 64}},
    ...     "seeds": [0, 1],
    ...     "variants": {"rotnet": {"stages": ["rotnet"]}},
    ...     "axes": {"input": {"setting": "model.sobel", "values": [True, False]}},
    ...     "evaluations": {"knn": {"task": "knn", "layers": ["conv13"]}},
    ... }
    >>> planned = dc_tf.run_sweep(sweep, "SWEEP", "scenes", test="scenes_test", dry_run=True)
    >>> planned["cells"], [run["name"] for run in planned["runs"]][:2]
    (4, ['rotnet-input_True-seed_0', 'rotnet-input_True-seed_1'])

    Args:
        config_file: YAML file, the name of a preset, such as "methods_small", or a mapping with the
            same fields.
        workdir: folder of the sweep; created if missing.
        data: data set to learn from; None: that of the file.
        train: labelled data set, or VOC development kit, that evaluations learn from; None: that of
            the file, else `data`.
        test: labelled data set to measure on; None: that of the file.
        at_once: trainings and evaluations at a time, which share the cores or the GPUs; 0 for as
            many as cores, GPUs and the planned memory allow.
        workers: processes of each of them.
        threads: of each process on CPUs; rounding depends on them, so with equal ones results do
            not depend on `at_once`. None: those of an earlier start, else its share of the cores.
        dry_run: only plan: cells, time and disk.
        measure: with `dry_run`, measure the speed of training here for the time.

    Returns:
        dict of cells, rows (mean and deviation over the seeds in percent), paper, failed and done,
        as WORKDIR/result.json has it; or of the plan.

    Raises:
        ConfigError: a file, setting or folder that cannot work; nothing was started.
        DataError: networks failed; the others are in its `result`.
        Preempted: after Ctrl-C or SIGTERM; the same call resumes.
    """
    from dc_tf.sweep import dry_run as planning
    from dc_tf.sweep import run

    if measure and not dry_run:
        raise ConfigError("--measure is for --dry_run; leave it out.")
    places = os.fspath(workdir), *map(path_or_none, (data, train, test))
    if dry_run:
        planned = planning.dry_run(config_file, *places, at_once, workers, measure)
        return planned.result
    return run.run_sweep(config_file, *places, at_once, workers, threads)
