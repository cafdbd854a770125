"""Makes a classifier of a network, and classifies images with it."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence

from dc_tf.api.arguments import Path, path_or_none, several, takes_arguments

if typing.TYPE_CHECKING:
    from dc_tf.data.storage.manifest import Dataset


@takes_arguments(config_file="config_files")
def finetune(
    model: Path,
    train: Path,
    test: Path,
    output: Path,
    *,
    config_files: Path | Sequence[Path] = (),
    params_override: str | Mapping | Sequence[str | Mapping] = (),
    protocol: str = "auto",
    stage: str = "",
    format: str = "parquet",
    input_range: str = "auto",
    compute_dtype: str = "auto",
    resize: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    estimate: bool = True,
    timeout_s: float = 600.0,
) -> dict | None:
    """Trains all layers of a network on labels, and keeps the classifier and its metrics.

    >>> made = dc_tf.finetune(
    ...     "MODEL", "scenes", "scenes_test", "CLASSIFIER", params_override="epochs=1"
    ... )
    >>> made["model"], made["classes"], 0 <= made["top1"] <= 1
    ('CLASSIFIER/model', 12, True)

    Args:
        model: SavedModel or run folder to start from.
        train: labelled data set to learn from.
        test: labelled data set to measure on.
        output: folder for the SavedModel (`model`), the predictions of the test images, metrics by
            class, the confusion matrix and `result.json`; shared by all workers that TF_CONFIG
            names. A call that was stopped resumes there.
        config_files: preset of the task "finetune", or path of a YAML file; or several.
        params_override: settings over those of the files: "a=1,b=2", a mapping, or a list of them.
        protocol: "paper", "small", or "auto": by the size of network and data.
        stage: of a run: take it as it was when this stage ended.
        format: of the table of predictions, "parquet", "csv" or "json".
        input_range: values of float images that the model takes: "1", as with "auto", for [0, 1],
            or "255" for 0 to 255.
        compute_dtype: of the products in training, "float32", "bfloat16", or "auto", which measures
            the faster. The model computes in float32.
        resize: pixels of the short side before the centre crop; None: the model's own.
        seed: of the new layers, the order of images, crops and dropout.
        overwrite: replace a classifier in the output that is finished or another.
        estimate: measure for some seconds first what the training will cost, and print that.
        timeout_s: with several workers, seconds that one may be silent or do nothing; 0: for ever.

    Returns:
        dict of model (folder of the SavedModel), predictions (the table), top1, top5, mean_class
        (shares of the test images), lowest_recall, and the settings that it was made with; None on
        workers other than the chief.

    Raises:
        ConfigError: a setting that cannot work, or a folder with something else.
        DataError: a data set or model that cannot be used, or a loss that is not finite.
        Preempted: after Ctrl-C; what was done is saved.
    """
    from dc_tf.classification import finetune as classifier

    return classifier.finetune(
        os.fspath(model),
        os.fspath(train),
        os.fspath(test),
        os.fspath(output),
        config_files=several(config_files),
        params_override=several(params_override),
        protocol=protocol,
        stage=stage,
        compute_dtype=compute_dtype,
        resize=resize,
        seed=seed,
        input_range=input_range,
        format=format,
        overwrite=overwrite,
        estimate=estimate,
        timeout_s=timeout_s,
    )


@takes_arguments()
def predict(
    model: Path,
    data: Path | Dataset | None = None,
    images: Path | None = None,
    output: Path | None = None,
    *,
    top: int = 1,
    batch_size: int = 64,
) -> dict:
    """Classifies the images of a data set, or image files that need no conversion.

    >>> predicted = dc_tf.predict("CLASSIFIER", images="photos")
    >>> predicted["images"], sorted(predicted["predictions"][0])
    (4, ['label', 'prediction', 'probability', 'reason', 'row', 'source'])
    >>> dc_tf.predict("CLASSIFIER", data="scenes_test", output="found.csv")["unusable"]
    0

    Args:
        model: output folder of `finetune`, or the SavedModel in it.
        data: data set folder, or one of `open_dataset`.
        images: in place of `data`: folder, image, pattern, list, zip, tar or Parquet file.
        output: table to write, .parquet, .csv or .json; None returns its lines.
        top: classes of each image, the most probable first.
        batch_size: images at a time.

    Returns:
        dict of images, unusable (how many cannot be used) with reasons, predicted ({class: number
        of images}), labelled and top1 (of the images with labels); and without `output`
        predictions, a list of dict of row, source, label, prediction, probability and reason, and
        with `top` above 1 top and top_probabilities.

    Raises:
        ConfigError: a model without classes, or a setting that cannot work.
        DataError: a data set or model that cannot be used, or no usable image.
        Preempted: after Ctrl-C; nothing is written.
    """
    from dc_tf.classification import predict as prediction

    data = path_or_none(data) if isinstance(data, str | os.PathLike) else data
    return prediction.predict(
        os.fspath(model),
        data,
        path_or_none(images),
        path_or_none(output),
        top=top,
        batch_size=batch_size,
    )
