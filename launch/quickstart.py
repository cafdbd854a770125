"""The whole job: images, training on several workers, export, and what the features are worth.

    launch/quickstart.sh                                  on pictures that it draws itself
    launch/quickstart.sh --images=DIR --workdir=DIR       on a folder of yours

With --images, sub-folders are taken for classes: a fifth of each is held out to measure with. A
folder without them has no labels, so nothing is measured on it. Started again with the same
--workdir, it goes on where it stopped. The last line on stdout is one JSON object.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import local

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINEAR_PROBE = f"--config_file={ROOT}/configs/evaluation/linear_probe_small.yaml"
LAYERS = "conv2,conv4,conv7,conv10,conv13,fc7"
WRONG_USAGE = 2


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    workdir = pathlib.Path(options.workdir).absolute()
    remember(workdir, options)
    train, test = make_data(options.images, workdir / "data")
    trained = train_on_workers(options, train, workdir / "run")
    export = workdir / "export"
    if not (export / "saved_model.pb").exists():
        dc_tf("Export", "export", f"--workdir={workdir / 'run'}", f"--output={export}")
    knn = linear = {}
    if test is not None:
        knn = evaluate("knn", "--task=knn", export, train, test, workdir)
        linear = evaluate("linear_probe", LINEAR_PROBE, export, train, test, workdir)
    result = {
        "workdir": str(workdir),
        "export": str(export),
        "rows": trained["rows"],
        "workers": trained["workers"],
        "rounds": trained["rounds"],
        "rotation_accuracy": trained.get("rotation_accuracy"),
        "knn_top1": knn.get("top1"),
        "random_init_knn_top1": knn.get("random_init_top1"),
        "linear_top1": linear.get("top1"),
        "random_init_linear_top1": linear.get("random_init_top1"),
    }
    print(table(result))
    print(json.dumps(result), flush=True)


def parse():
    parser = argparse.ArgumentParser(
        prog="launch/quickstart.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parser.add_argument("--images", help="folder of images (default: generated ones)")
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        help="processes (default: 4, or fewer where there are fewer GPUs)",
    )
    parser.add_argument(
        "--workdir",
        default=ROOT / "runs" / f"quickstart-{stamp}",
        help="folder for data, run, export and results (default: runs/quickstart-TIME)",
    )
    parser.add_argument(
        "--config_file",
        default=ROOT / "configs" / "quickstart.yaml",
        help="what to train (default: configs/quickstart.yaml)",
    )
    parser.add_argument(
        "--params_override", help="settings over those of the file: stages[0].epochs=3"
    )
    options = parser.parse_args()
    if options.images is not None and not pathlib.Path(options.images).is_dir():
        parser.error(f"--images={options.images} is not a folder")
    if options.workers < 1:
        parser.error(f"--workers={options.workers} is too small; the least is 1")
    return options


def default_workers():
    gpus = len(local.visible_gpus())
    return max(count for count in (1, 2, 4) if count <= (gpus or 4))


def remember(workdir, options):
    """Keeps one work folder for one set of images."""
    images = options.images and str(pathlib.Path(options.images).absolute())
    note = workdir / "quickstart.json"
    if note.exists():
        before = json.loads(note.read_text())["images"]
        if before != images:
            say(f"{workdir} was made from {before or 'generated images'}; use another --workdir.")
            sys.exit(WRONG_USAGE)
    workdir.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"images": images}))


def make_data(images, folder):
    """Returns the data sets to train on and, where there are labels, to test on (else None)."""
    whole, train, test = folder / "all", folder / "train", folder / "test"
    if images is None:
        for split, output, count in (("train", train, 4000), ("test", test, 1000)):
            if not complete(output):
                flags = f"--split={split}", f"--images={count}", "--overwrite"
                dc_tf(f"Images to {split}", "generate", f"--output={output}", *flags)
        return train, test
    folders = any(entry.is_dir() and entry.name[0] != "." for entry in os.scandir(images))
    if not complete(whole):
        flags = ["--labels_from_folders"] if folders else []
        flags += ["--short_side=128", "--overwrite"]  # More than quickstart.yaml looks at.
        dc_tf("Images", "convert", f"--input={images}", f"--output={whole}", *flags)
    sys.path.insert(0, str(ROOT))  # As the steps have it, installed or not.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from dc_tf.data.hold_out import hold_out, measurable

    if not measurable(whole):
        say("No two sub-folders with two images each, so there is nothing to measure with.")
        return whole, None
    if not (complete(train) and complete(test)):
        say("== Holding out a fifth")
        hold_out(whole, train, test)
    return train, test


def complete(data):
    """Whether a data set is there; its manifest is written last."""
    return (data / "manifest.json").exists()


def train_on_workers(options, data, run):
    # JSON, since a path may hold what separates settings.
    overrides = [f"--params_override={json.dumps({'data': {'path': str(data)}})}"]
    if options.params_override:
        overrides.append(f"--params_override={options.params_override}")
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), f"--workers={options.workers}"]
    train = ["train", f"--config_file={options.config_file}", f"--workdir={run}", *overrides]
    return call("Training", [*launcher, "--max_restarts=1", "--", *train])


def evaluate(name, task, export, train, test, workdir):
    sets = f"--train={train}", f"--test={test}"
    output = f"--output={workdir / name}.json"
    return dc_tf(
        f"Measuring: {name}",
        "evaluate",
        task,
        f"--model={export}",
        f"--layer={LAYERS}",
        *sets,
        output,
    )


def dc_tf(title, *arguments):
    return call(title, [sys.executable, "-m", "dc_tf", *map(str, arguments)])


def call(title, command):
    """Runs a step, passes its output on, and returns the JSON object of its last line.

    A step that fails ends the job with its exit code.
    """
    say(f"== {title}")
    path = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    last = ""
    try:
        for line in process.stdout:
            if last:
                print(last, flush=True)
            last = line.rstrip("\n")
        code = process.wait()
    finally:  # Told to stop: so is the step, which ends its own workers.
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code:
        say(f"{last}\n{title} failed with exit code {code}." if last else f"{title} failed.")
        sys.exit(code if code > 0 else 128 - code)
    return json.loads(last)


def table(result):
    """The figures of the job, the untrained network's beside them."""

    def percent(name):
        value = result.get(name)
        return "-" if value is None else f"{100 * value:.1f}%"

    rows = [
        ("", "trained", "random init"),
        ("rotation accuracy", percent("rotation_accuracy"), "25.0% (chance)"),
        ("k-NN top-1", percent("knn_top1"), percent("random_init_knn_top1")),
        ("linear probe top-1", percent("linear_top1"), percent("random_init_linear_top1")),
    ]
    return "\n".join(f"{name:20}{own:>10}   {other}" for name, own, other in rows)


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
        sys.exit(0)
    sys.exit(128 + signal.SIGINT)
