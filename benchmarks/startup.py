"""Measures the wall and CPU time of short commands, each from start to exit.

    python benchmarks/startup.py                      # this copy
    python benchmarks/startup.py --root=OTHER_COPY    # another one, to compare with

Prints a line for each command: CPU and wall seconds, the minimum of several runs; how much of the
wall time was its start, which is that of the interpreter and of all imports; and the slow packages
that it imported. Each run is a process of its own, on a few hundred kilobytes of data; the
very first run is not counted, since it reads the disk. --working measures commands that do their
work on 128 images, features, clusters and a run of a small network, all made first: one after
another and then all again, on new copies, since some resume what they have done. Beside each
the import of TensorFlow without its optional parts is measured, since cores change their speed.
"""

import argparse
import collections
import itertools
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
SLOW = (
    "tensorflow", "tf_keras", "official", "orbit", "tensorflow_datasets", "googleapiclient",
    "pandas", "matplotlib", "sklearn", "scipy", "faiss", "h5py", "PIL", "numpy",
)  # fmt: skip

# Commands on what a run or a network has left.
OF_NETWORKS = (
    "evaluate", "finetune", "predict", "export", "report", "clusters", "assign", "curate",
    "search", "duplicates", "browse",
)  # fmt: skip

# Writes at exit to the descriptor named in the environment: seconds until it was reached and in
# imports of the main thread, then `sys.modules`.
PROBE = """
import builtins, importlib, os, sys, threading, time
descriptor, begun = os.environ["PROBE"].split()
start, importing = time.monotonic() - float(begun), False
def timed(importer):
    def timed_import(*args, **kwargs):
        global start, importing
        if importing or threading.current_thread() is not threading.main_thread():
            return importer(*args, **kwargs)
        importing, begun = True, time.monotonic()
        try:
            return importer(*args, **kwargs)
        finally:
            importing = False
            start += time.monotonic() - begun
    return timed_import
builtins.__import__ = timed(builtins.__import__)
importlib.import_module = timed(importlib.import_module)
from dc_tf.commands import main
end = os._exit
def list_and_end(code):
    if "tensorflow.python" not in sys.modules:  # what is there waits for its first use
        sys.modules.pop("tensorflow", None)
    os.write(int(descriptor), "\\n".join([str(start), *sys.modules]).encode())
    end(code)
os._exit = list_and_end
sys.argv[0] = "dc_tf"
main.run_and_exit()
"""


def commands(folder) -> dict[str, list[str]]:
    """{name: arguments}, in the order of running, since some read what others wrote."""
    data, nothing = f"{folder}/data", f"{folder}/no"
    run, model, split = f"--run={nothing}", f"--model={nothing}", ["--train=D", "--test=T"]
    return {
        "--help": ["--help"],
        "train --help": ["train", "--help"],
        "train, a flag that is wrong": ["train", "--nothing=1"],
        "embed --help": ["embed", "--help"],
        "embed, no such data": ["embed", "--model=M", f"--data={folder}/no", "--output=O"],
        "generate, 100 images": ["generate", f"--output={data}", "--images=100", "--overwrite"],
        "convert, 100 images": [
            "convert", f"--input={folder}/images", f"--output={folder}/converted", "--overwrite"
        ],
        "index, 100 records": [
            "index", f"--input={data}/*.tfrecord", f"--output={folder}/index", "--overwrite"
        ],
        "inspect --verify": ["inspect", data, "--verify"],
        "kmeans, no such file": ["kmeans", f"--input={folder}/no.npy", "--k=10", "--output=O"],
        "kmeans, 1,000 rows": [
            "kmeans", f"--input={folder}/x.npy", "--k=10", f"--output={folder}/k", "--overwrite"
        ],
        "doctor": ["doctor"],
        **{f"{name} --help": [name, "--help"] for name in OF_NETWORKS},
        "evaluate, no such model": ["evaluate", "--task=knn", model, *split],
        "finetune, no such model": ["finetune", model, *split, f"--output={folder}/O"],
        "predict, no such model": ["predict", model, "--images=I", f"--output={folder}/o.csv"],
        "export, no such run": ["export", f"--workdir={nothing}", f"--output={folder}/O"],
        "report, no such run": ["report", run, f"--output={folder}/o.html"],
        "clusters, no such run": ["clusters", run, f"--output={folder}/o.csv"],
        "assign, no such run": ["assign", run, f"--data={data}", f"--output={folder}/o.csv"],
        "curate, no such run": ["curate", run, "--target=9", f"--output={folder}/O"],
        "search, no such run": ["search", run, "--query=1"],
        "duplicates, no such run": ["duplicates", run, f"--output={folder}/O"],
        "browse, no such run": ["browse", run],
    }  # fmt: skip


# What `working` reads, in the order of making.
SETTINGS = (
    "{model: {width: 0.0625, resolution: 32, fc: 16}, data: {path: DATA, min_crop_area: 0.5}, "
    "stages: [{name: only, epochs: 2, clusters: 1, sub_clusters: 8, batch_size: 32, optimizer: "
    "{learning_rate: 0.01}, clustering: {iterations: 3, whitening_dim: 8}}]}"
)


def inputs(folder) -> list[list[str]]:
    """The commands that make them."""
    data = f"{folder}/few"
    settings = SETTINGS.replace("DATA", data)
    learned, split = f"--model={folder}/run", [f"--train={data}", f"--test={data}"]
    return [
        ["generate", f"--output={data}", "--images=128", "--size=64"],
        ["kmeans", f"--input={folder}/few.npy", "--k=5", f"--output={folder}/clusters"],
        ["train", f"--params_override={settings}", f"--workdir={folder}/run"],
        [
            "finetune", learned, *split, "--params_override=epochs=1",
            f"--output={folder}/classifier",
        ],
    ]  # fmt: skip


def working(folder) -> dict[str, list[str]]:
    """{name: arguments} of commands that do their work, on the smallest inputs."""
    data, features = f"--data={folder}/few", f"--features={folder}/few.npy"
    clusters, run, learned = f"--clusters={folder}/clusters", f"--run={folder}/run", f"{folder}/run"
    split = [f"--train={folder}/few", f"--test={folder}/few"]
    of_test, out = f"--test_features={folder}/few.npy", f"--output={folder}/out"
    return {
        "curate --where": ["curate", data, "--where=label!=3", out, "--overwrite"],
        "curate --clusters": [
            "curate", clusters, data, "--max_per_cluster=5", out, "--overwrite"
        ],
        "curate --features --target, with a tree": [
            "curate", features, data, "--target=30", out, f"--tree={folder}/tree", "--overwrite"
        ],
        "clusters --run": ["clusters", run, f"{out}.parquet"],
        "clusters --clusters": ["clusters", clusters, data, f"{out}.csv"],
        "search --features": ["search", features, data, "--query=7"],
        "duplicates --features": ["duplicates", features, data, "--dry_run"],
        "report --clusters": ["report", clusters, data, f"{out}.html", "--overwrite"],
        "assign --clusters --features": ["assign", clusters, features, data, f"{out}.csv"],
        "evaluate --task=nmi --model=RUN": ["evaluate", "--task=nmi", f"--model={learned}"],
        "evaluate --task=knn --features": ["evaluate", "--task=knn", features, of_test, *split],
        "evaluate --task=retrieval --features": [
            "evaluate", "--task=retrieval", features, split[1]
        ],
        "kmeans": [
            "kmeans", f"--input={folder}/few.npy", "--k=5", f"--output={folder}/k", "--overwrite"
        ],
        "report --run": ["report", run, f"{out}.html", "--overwrite"],
        "assign --run": ["assign", run, data, f"{out}.csv"],
        "embed --layer=fc7": [
            "embed", f"--model={learned}", data, "--layer=fc7", f"--output={folder}/embedded"
        ],
        "predict": ["predict", f"--model={folder}/classifier", data, f"{out}.csv"],
        "export": ["export", f"--workdir={learned}", f"--output={folder}/export", "--overwrite"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=ROOT, help="the copy of dc_tf to measure")
    parser.add_argument("--runs", type=int, default=3, help="the least of as many counts")
    parser.add_argument("--only", default="", help="commands whose name begins so")
    parser.add_argument("--working", action="store_true", help="commands that do their work")
    options = parser.parse_args()
    root = os.path.abspath(options.root)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(folder)
        os.chdir(folder)  # Python looks for packages where it is started.
        measure = measure_working if options.working else measure_short
        measure(folder, root, options)


def measure_short(folder, root, options) -> None:
    print(
        "| command | processor, s | clock, s | its start, s | imported |",
        "|---" * 5 + "|",
        sep="\n",
    )
    started(["--help"], root)
    for name, arguments in commands(folder).items():
        if name.startswith(options.only):
            found = [started(arguments, root) for _ in range(options.runs)]
            print(f"| {name} | {least(found)} | {packages(found)} |", flush=True)


def measure_working(folder, root, options) -> None:
    """Prints the table once all runs are done, with the start beside TensorFlow's own import."""
    for arguments in inputs(folder):
        started(arguments, root, codes=(0,))
    found, alone = collections.defaultdict(list), collections.defaultdict(list)
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as copy:
            for name in ("few", "few.npy", "clusters", "run", "classifier"):
                (shutil.copytree if os.path.isdir(name) else shutil.copyfile)(
                    name, f"{copy}/{name}"
                )
            for name, arguments in working(copy).items():
                if name.startswith(options.only):
                    found[name].append(started(arguments, root, codes=(0,)))
                    alone[name].append(tensorflow_alone(root))
    print("| command | processor, s | clock, s | its start, s | TensorFlow alone, s | imported |")
    print("|---" * 6 + "|")
    for name, runs in found.items():
        print(f"| {name} | {least(runs)} | {min(alone[name]):.2f} | {packages(runs)} |")
    seconds = sorted(itertools.chain(*alone.values()))
    print(
        f"TensorFlow alone: {seconds[0]:.2f} to {seconds[-1]:.2f} s, median "
        f"{statistics.median(seconds):.2f}"
    )


def least(runs) -> str:
    return " | ".join(f"{min(run[place] for run in runs):.2f}" for place in range(3))


def packages(runs) -> str:
    return ", ".join(package for package in SLOW if package in runs[-1][3])


def tensorflow_alone(root) -> float:
    """Wall seconds of a Python that imports TensorFlow without its optional parts, and ends."""
    code = (
        "from dc_tf.commands import lazy_tensorflow; lazy_tensorflow.install(); import tensorflow; "
    )
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", f"{code}tensorflow.constant; import os; os._exit(0)"],
        env=os.environ | {"PYTHONPATH": root},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - begun


def write_inputs(folder) -> None:
    random = np.random.default_rng(0)
    np.save(f"{folder}/x.npy", random.random((1000, 64), np.float32))
    np.save(f"{folder}/few.npy", random.random((128, 64), np.float32))
    os.mkdir(f"{folder}/images")
    for number in range(100):
        pixels = random.integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(f"{folder}/images/{number}.jpg")


def started(arguments, root, codes=(0, 1, 2)) -> tuple[float, float, float, set[str]]:
    """(CPU seconds, wall seconds, those of its start, imported modules) of a run of dc_tf."""
    reads, writes = os.pipe()
    with tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        environment = os.environ | {"PYTHONPATH": root, "PROBE": f"{writes} {begun}"}
        process = subprocess.Popen(
            [sys.executable, "-c", PROBE, *arguments],
            env=environment,
            pass_fds=[writes],
            stdout=output,
            stderr=output,
        )
        os.close(writes)
        with os.fdopen(reads) as modules:
            start, *imported = modules.read().splitlines() or ["nan"]
        _, status, used = os.wait4(process.pid, 0)
        clock = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            output.seek(0)
            sys.exit(f"dc_tf {' '.join(arguments)} failed:\n{output.read().decode()}")
    return used.ru_utime + used.ru_stime, clock, float(start), set(imported)


if __name__ == "__main__":
    main()
