"""Fine-tunes a network on labels and keeps the classifier, with what it says of a test set.

    result = finetune("MODEL", train=TRAIN, test=TEST, output="CLASSIFIER")
    result["top1"], result["model"]             # 0.93, "CLASSIFIER/model"

The settings are those of `dc_tf evaluate --task=finetune`. The workers that TF_CONFIG names share
every batch and the test images, in the folder of the output; an interrupted call resumes there.

Folder:
    model/                SavedModel of `exporting.classifier`
    predictions.parquet   a line for each labelled test image (or .csv, .json)
    classes.csv           images, precision and recall of each class
    confusion.csv, .png   images by label and prediction
    result.json           the metrics; written last
    about.json            what the classifier depends on
    work/                 checkpoints, until the end
"""

import dataclasses
import os

from dc_tf import atomic, paths
from dc_tf.distributed import heartbeat
from dc_tf.distributed.joined import TIMEOUT_S, joined
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError
from dc_tf.exporting.no_model import check_exists
from dc_tf.limits import AUTO, COMPUTE_DTYPES

ABOUT, RESULT, WORK, MODEL = "about.json", "result.json", "work", "model"
FORMATS = ("parquet", "csv", "json")
_WEAKEST = 5  # classes that the text names


@dataclasses.dataclass(frozen=True)
class _Workers:
    """The view of `tasks.Request` on the workers."""

    world: object


def finetune(
    model: str,
    train: str,
    test: str,
    output: str,
    *,
    config_files=(),
    params_override=(),
    protocol="auto",
    stage="",
    compute_dtype="auto",
    resize=None,
    seed=0,
    input_range="auto",
    format="parquet",
    overwrite=False,
    estimate=True,
    timeout_s=TIMEOUT_S,
) -> dict | None:
    """Trains, measures and writes; `help(dc_tf.finetune)` describes it."""
    task_from_environment()  # refuses a wrong TF_CONFIG before anything is opened
    paths.check_folder(output, "--output")
    for name, value, choices in (
        ("compute_dtype", compute_dtype, COMPUTE_DTYPES),
        ("format", format, FORMATS),
    ):
        if value not in choices:
            raise ConfigError(f"--{name} is {value!r}; use one of {', '.join(choices)}.")
    check_exists(model)
    # After what is known to be right, since TensorFlow takes seconds to import.
    from dc_tf.evaluation import tasks
    from dc_tf.exporting.input_range import checked_range

    asked = tasks.read("finetune", config_files, params_override, protocol, seed=seed)
    _check_given(asked.given)
    made = {"input_range": checked_range(input_range), "format": format}
    with (
        joined(f"--output={output}", output, timeout_s) as comm,
        heartbeat.slow_operation("fine-tuning"),
    ):
        request = tasks.Request(
            task="finetune",
            model=model,
            stage=stage,
            train=train,
            test=test,
            compute_dtype=_begun_dtype(output, compute_dtype),
            resize=resize,
            seed=seed,
            cluster=_Workers(comm),
        )
        return _Job(asked, request, output, made, overwrite, estimate).run()


class _Job:
    """One call on one worker, after the workers have joined."""

    def __init__(self, asked, request, output, made, overwrite, estimates):
        self._asked, self._request, self._output = asked, request, output
        self._made, self._overwrite, self._estimates = made, overwrite, estimates
        self._comm = request.world

    def run(self) -> dict | None:
        """The result, on the chief."""
        from dc_tf.distributed.collective_errors import raise_on_all
        from dc_tf.distributed.collectives import broadcast_number
        from dc_tf.evaluation.finetune.task import about_of, check, work
        from dc_tf.evaluation.run import choose, estimate, say_protocol

        comm, request = self._comm, self._request
        with raise_on_all(comm):
            chosen = choose(self._asked, request)
            train, test = request.splits()
            check(chosen.protocol, train, comm)
        frozen = request.frozen_model("finetune")
        about = about_of(frozen, train, test, chosen.protocol)
        about |= {"seed": chosen.protocol.seed, **self._made}
        with raise_on_all(comm):
            if comm.rank == 0:
                _claim(self._output, about, self._overwrite)
        if broadcast_number(os.path.isfile(self._path(RESULT)), comm):
            return self._finished()
        say_protocol("finetune", chosen, comm)
        if self._estimates:
            estimate(work(frozen, train, test, chosen.protocol), 1, "finetune", chosen, comm)
        return self._made_new(frozen, train, test, chosen)

    def _made_new(self, frozen, train, test, chosen):
        from dc_tf.classification.metrics import confusion_matrix
        from dc_tf.classification.predictions import predict_rows
        from dc_tf.distributed.collective_errors import raise_on_all
        from dc_tf.evaluation.finetune.train import trained
        from dc_tf.exporting.classifier import ClassifierNetwork

        comm = self._comm
        protocol = dataclasses.replace(chosen.protocol, workdir=self._path(WORK))
        fine_tuner, position = trained(frozen, train, protocol, comm, protocol.seed)
        network = ClassifierNetwork(fine_tuner.trunk, fine_tuner.head).plain_copy()
        batch_size = max(1, protocol.batch_size // comm.size)
        found = predict_rows(network, test, frozen.short_side, batch_size, comm)
        with raise_on_all(comm):
            if comm.rank == 0:
                names = class_names(train)
                confusion = confusion_matrix(test.labels, found.prediction, train.classes)
                result = self._result(frozen, train, test, chosen, position, found, confusion)
                self._export(network, frozen, protocol, names, result)
                self._write(found, test, names, confusion)
                atomic.write_json(self._path(RESULT), result)
        comm.barrier()
        return self._finished()

    def _finished(self):
        if self._comm.rank:
            return None
        atomic.remove_tree(self._path(WORK))
        return atomic.read_json(self._path(RESULT))

    def _result(self, frozen, train, test, chosen, position, found, confusion):
        from dc_tf.classification.metrics import lowest_recall, overall

        names = class_names(train)
        return {
            "output": self._output,
            "model": self._path(MODEL),
            "predictions": self._path(f"predictions.{self._made['format']}"),
            **overall(confusion),
            "top5": found.top5,
            "lowest_recall": lowest_recall(confusion, names, _WEAKEST),
            "train_accuracy": position.last["hits"],
            "train_loss": position.last["loss"],
            "classes": train.classes,
            "train_rows": len(train.rows),
            "test_rows": len(test.rows),
            "from": self._request.model,
            "network": frozen.network,
            "protocol": dataclasses.asdict(chosen.protocol),
            "protocol_name": chosen.name,
            "protocol_reason": chosen.reason,
            "opened": self._request.opened,
        }

    def _export(self, network, frozen, protocol, names, result):
        from dc_tf.exporting.classifier import export_classifier

        settings = dataclasses.asdict(protocol)
        for name in ("workdir", "paper", "seeds"):
            del settings[name]
        train = self._request.train
        source = {
            "model": self._request.model,
            "finetune": settings,
            "data": {"path": train, "fingerprint": self._request.opened["train"]},
            "metrics": {k: result[k] for k in ("top1", "top5", "mean_class", "test_rows")},
        }
        export_classifier(
            network,
            names,
            self._path(MODEL),
            protocol.weight_decay,
            short_side=frozen.short_side,
            source=source,
            overwrite=True,
            input_range=self._made["input_range"],
        )

    def _write(self, found, test, names, confusion):
        from dc_tf.classification import metrics
        from dc_tf.classification.predictions import write_predictions

        write_predictions(found, test, names, self._path(f"predictions.{self._made['format']}"))
        metrics.write_by_class(confusion, names, self._path("classes.csv"))
        metrics.write_confusion(confusion, names, self._path("confusion.csv"))
        with atomic.replacing(self._path("confusion.png"), ending=".png") as staging:
            metrics.draw_confusion(confusion, names, staging)

    def _path(self, name):
        return os.path.join(self._output, name)


def class_names(train) -> list[str]:
    """Names of the classes of a training split; their numbers where the data set has none."""
    names = train.reader.dataset.class_names
    return [str(name) for name in (range(train.classes) if names is None else names)]


def as_text(result) -> str:
    """A few lines for a terminal: metrics, the weakest classes, where the rest is."""
    lowest = result["lowest_recall"].items()
    shown = ", ".join(f"{name} {100 * recall:.1f}" for name, recall in lowest)
    lines = [
        f"{result['classes']} classes, {result['train_rows']:,} training images, "
        f"{result['test_rows']:,} test images",
        f"{'top-1':>8}{'top-5':>8}{'class mean':>12}",
        f"{100 * result['top1']:>8.2f}{100 * result['top5']:>8.2f}"
        f"{100 * result['mean_class']:>12.2f}",
        f"lowest recall, percent: {shown}",
        f"SavedModel: {result['model']}",
    ]
    return "\n".join(lines)


def _check_given(given):
    if given.get("workdir"):
        raise ConfigError(
            f"workdir is {given['workdir']}, but dc_tf finetune resumes in --output; leave it out."
        )
    if given.get("seeds", 1) != 1:
        raise ConfigError(
            f"seeds is {given['seeds']}, but a classifier is of one seed; choose it with --seed."
        )


def _begun_dtype(output, asked):
    """The type of the products: what `asked` means, or what `output` was begun with."""
    about = os.path.join(output, ABOUT)
    if asked == AUTO and os.path.isfile(about):
        return atomic.read_json(about).get("compute_dtype", asked)
    return asked


def _claim(output, about, overwrite):
    """Makes the output folder that of this classifier.

    Raises:
        ConfigError: it holds something else.
    """
    path = os.path.join(output, ABOUT)
    if overwrite and os.path.isfile(path):
        finished = os.path.isfile(os.path.join(output, RESULT))
        if finished or atomic.read_json(path) != about:
            atomic.remove_tree(output)
    atomic.refuse_foreign(path, about, "--output", "classifiers")
