"""An evaluation from what was asked for to its files: what is refused, the workers, the result.

    found = evaluate(task="knn", model="/models/mine", train=DATA, test=TEST)
    found = evaluate(task="knn", features="FEATURES", train=TRAIN_VIEW, test=TEST_VIEW)
    print(found.table)
    found.write(output="knn.json", plot="layers.png")

TensorFlow, which takes seconds to import, comes after all that can be refused without it.
"""

import contextlib
import json
import os

from absl import logging

from dc_tf import paths
from dc_tf.data.storage import files
from dc_tf.data.storage.files import same_place
from dc_tf.distributed import heartbeat, stop_request
from dc_tf.distributed.ports import check_own_port
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen.start import check_other, other_network
from dc_tf.evaluation.task_names import BY_LAYER, NEIGHBOURS, OF_FEATURES, check_task
from dc_tf.exporting.no_model import check_exists
from dc_tf.limits import AUTO, COMPUTE_DTYPES

PICTURES = (".png", ".pdf", ".svg")
# Workers that do not watch one another may start so long after the first.
_JOIN_S = 600.0


class Evaluation(dict):
    """What was measured: JSON-able, by name.

    Attributes:
        table: the same as text to read.
        neighbours: list of dict of `tasks.Request`; None if they were not asked for.
    """

    def __init__(self, values, table, neighbours=None):
        super().__init__(values)
        self.table = table
        self.neighbours = neighbours

    def write(self, output=None, plot=None, neighbours=None) -> None:
        """Writes the files that were asked for; what cannot be written is printed.

        Args:
            output: JSON file, or None.
            plot: picture of accuracy by layer, or None.
            neighbours: CSV file of `self.neighbours`, or None.

        Raises:
            DataError: a file cannot be written.
        """
        try:
            if output:
                text = json.dumps(self, indent=1) + "\n"
                files.write_file(output, lambda file: file.write(text.encode()))
            if plot:
                from dc_tf.evaluation.frozen.plot import plot as draw  # brings Matplotlib

                draw(self, plot)
            if neighbours:
                from dc_tf.evaluation.neighbours import write_csv

                write_csv(self.neighbours, neighbours)
        except OSError as error:
            print(json.dumps(self), flush=True)  # hours of work, and nothing else has it
            raise DataError(
                f"the result above could not be written ({error}); save it from here, and free "
                "space or name another file for the next call."
            ) from error


def evaluate(
    *,
    model=None,
    task=None,
    train=None,
    test=None,
    layers=("all",),
    stage="",
    config_files=(),
    params_override=(),
    protocol="auto",
    output=None,
    plot=None,
    neighbours=None,
    random_init=True,
    estimate=True,
    compute_dtype="auto",
    resize=None,
    seed=0,
    watch_dir=None,
    timeout_s=600.0,
    scratch=None,
    features=None,
    test_features=None,
    column=None,
    preprocessing=None,
    signature="",
) -> Evaluation | None:
    """Measures on the workers that TF_CONFIG names; alone without.

    Args:
        model, task, train, test, layers, stage, random_init, compute_dtype, resize, seed: as of
            `tasks.Request`; task None takes the one that a file names.
        config_files, params_override, protocol, scratch: as of `tasks.read`.
        output, plot, neighbours: files that `Evaluation.write` will be asked for. Refused now
            rather than after the work if they cannot be made.
        estimate: measure for some seconds first what it will cost, and print that.
        watch_dir: of several workers: folder in which they watch one another; None: they do not.
        timeout_s: seconds that a worker may be silent or do nothing; 0: for ever.
        features, test_features, column: as of `tasks.Request`.
        preprocessing: of a network of another program, as `networks.preprocessing.read` takes it.
        signature: of a SavedModel of another program.

    Returns:
        The result on the chief, None on the others.

    Raises:
        ConfigError: what cannot work.
        DataError: data or a model that cannot be used.
    """
    place = task_from_environment()
    check_own_port(place)
    if task:
        check_task(task)
    _check(compute_dtype, plot, neighbours, train, test)
    _check_source(model, features, test_features, column)
    other = _checked_network(model, stage, resize, compute_dtype, preprocessing, signature)
    written = {"--output": output, "--plot": plot, "--neighbours": neighbours}
    # The others write nothing, and may not have the folder.
    _check_paths(written if place.rank == 0 else {}, watch_dir, scratch)
    if other is None and model is not None and task != "nmi":  # which takes clusters too
        check_exists(model)
    # After what is known to be right, since TensorFlow takes seconds to import.
    from dc_tf.evaluation import run as evaluation
    from dc_tf.evaluation import tasks

    asked = tasks.read(task, config_files, params_override, protocol, seed=seed, scratch=scratch)
    _check_task(asked, features is not None, other is not None, plot, neighbours)
    with _joined(watch_dir, timeout_s) as cluster, heartbeat.slow_operation("evaluation"):
        request = tasks.Request(
            task=asked.task,
            model=model,
            stage=stage,
            train=train,
            test=test,
            layers=tuple(layers),
            random_init=random_init,
            compute_dtype=compute_dtype,
            resize=resize,
            seed=seed,
            cluster=cluster,
            features=features,
            test_features=test_features,
            column=column,
            other=other,
            neighbours=[] if neighbours else None,
        )
        result, table = evaluation.run(asked, request, estimate)
    if cluster and not cluster.is_chief:
        return None
    return Evaluation(result, table, request.neighbours)


def _check(compute_dtype, plot, neighbours, train, test):
    if compute_dtype not in COMPUTE_DTYPES:
        raise ConfigError(
            f"--compute_dtype is {compute_dtype!r}; use {' or '.join(COMPUTE_DTYPES)}."
        )
    if plot and not plot.endswith(PICTURES):
        raise ConfigError(f"--plot is {plot}; its end must be {', '.join(PICTURES)}.")
    if neighbours and not neighbours.endswith(".csv"):
        raise ConfigError(f"--neighbours is {neighbours}; its end must be .csv.")
    if train and test and same_place(train, test):
        logging.warning(
            "--train and --test are both %s: metrics will be better than on other images.", test
        )


def _check_source(model, features, test_features, column):
    if (model is None) == (features is None):
        raise ConfigError(
            "give --model=MODEL, or --features=FEATURES of images that are embedded already"
            + (", not both." if features is not None else ".")
        )
    if test_features is not None and features is None:
        raise ConfigError("--test_features needs --features, those of the training images.")
    if column is not None and features is None:
        raise ConfigError(f"--column={column} is of --features; give both, or none.")


def _checked_network(model, stage, resize, compute_dtype, preprocessing, signature):
    """`tasks.Request.other`; refuses settings that the network, or features, do not have."""
    if model is not None:
        other = other_network(model, preprocessing, signature)
        if other is not None:
            check_other(model, stage, False, compute_dtype)
        return other
    asked = {"stage": stage, "resize": resize, "compute_dtype": compute_dtype != AUTO}
    for name, value in asked.items():
        if value:
            raise ConfigError(f"--{name} is of networks; --features are embedded already.")
    return None


def _check_paths(written, watch_dir, scratch):
    """Refuses files, {flag: path or None}, and folders that cannot be made."""
    for name, path in written.items():
        if path:
            paths.check_file(path, name)
    for name, path in (("--watch_dir", watch_dir), ("--scratch", scratch)):
        if path:
            paths.check_folder(path, name)


def _check_task(asked, of_features, of_other, plot, neighbours):
    """Refuses what the task cannot use: features, networks of other programs, files, folders."""

    task = asked.task
    if workdir := asked.given.get("workdir"):
        paths.check_folder(paths.expand(workdir), "workdir")
    if of_features and task not in OF_FEATURES:
        raise ConfigError(f"--features are for {', '.join(OF_FEATURES)}; {task} needs --model.")
    if of_other and task not in BY_LAYER:
        raise ConfigError(
            f"a network of another program is measured by {', '.join(BY_LAYER)}; for "
            f"retrieval embed images with it and give --features. {task} needs a network of dc_tf."
        )
    if plot and task not in BY_LAYER:
        raise ConfigError(f"--plot is of layers, which only {', '.join(BY_LAYER)} measure.")
    if neighbours and task not in NEIGHBOURS:
        names = " and ".join(NEIGHBOURS)
        raise ConfigError(f"--neighbours is for the tasks {names}; leave it out.")


@contextlib.contextmanager
def _joined(watch_dir, timeout_s):
    """The cluster of the workers that TF_CONFIG names; None for a process on its own."""
    task = task_from_environment()
    if task.size == 1:
        yield None
        return
    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.session import join, leaving, watched

    with contextlib.ExitStack() as stack:
        if watch_dir:
            setting = f"--watch_dir={watch_dir}"
            folders = (os.path.join(watch_dir, name) for name in ("heartbeats", "stacks"))
            watching = watched(setting, *folders, task, timeout_s)
            cluster = join(stack.enter_context(watching))
        else:
            cluster = connect(within_s=_JOIN_S)
        # TensorFlow has installed its own. Nothing is saved before the end.
        stop_request.restore_default_handlers()
        stack.enter_context(leaving(cluster))
        yield cluster
