"""Checks several workers of one host, one process a GPU: what `gpu_workers.sh` runs.

    python benchmarks/gpu_workers.py --workers=2 --output=gpu_workers.json
    python benchmarks/gpu_workers.py --cpu --workers=2

groups    sums over all groups of neighbours, traced together with sums over all workers.
equality  ten steps of one worker and of all: gradients, factors, and bfloat16 on the wire; with
          four workers or more also where each half shares a head. Two have no such groups.
kill      a worker is killed in a run; the launcher restarts all, and the run ends.
stop      a run is stopped by SIGTERM, resumes, and ends.
messages  GB/s of sums of 64 MiB, microseconds of short sums.
step      seconds of a step by what it exchanges, and of a worker that exchanges nothing.

Prints a line for each check and exits with 1 if one failed.
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "launch"))

CHECKS = ("groups", "equality", "kill", "stop", "messages", "step")
STOPPED = 42
# Largest distance from the weights of one worker, over what ten steps changed.
ROUNDING = {"gradients": 2e-2, "factors": 2e-2, "factors, bfloat16": 5e-2}
STEP_KINDS = ("alone", "before", "gradients", "factors", "factors, bfloat16")
GPU_SHAPE = dict(resolution=224, batch=48, width=1.0, fc=4096, sub_classes=20_000, rotations=1)
CPU_SHAPE = dict(resolution=32, batch=4, width=1 / 16, fc=32, sub_classes=20, rotations=1)
# A run of some hundred steps; it is disturbed once it has come to DISTURBED_AT.
DISTURBED_AT = 20
SETTINGS = {
    "model": {"width": 1 / 16, "resolution": 32, "fc": 16, "exchange": "factors"},
    "log_every": 1,
    "checkpoint_every": 10,
    "watchdog": {"timeout_s": 10.0},
    "stages": [
        {"name": "rotnet", "epochs": 40, "clusters": 1, "sub_clusters": 0, "batch_size": 32},
        {
            "name": "deepercluster",
            "epochs": 2,
            "clusters": 2,
            "sub_clusters": 4,
            "batch_size": 32,
            "clustering": {"iterations": 3, "whitening_dim": 8},
        },
    ],
}


def main() -> int:
    options = parse()
    if options.role:
        return play(options.role, json.loads(options.task))
    if options.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        options.workers = options.workers or 2
    else:
        options.workers = on_gpus(options.workers)
    results, failed = {}, []
    with tempfile.TemporaryDirectory(prefix="dc_tf-gpu-workers-") as folder:
        for name in options.checks.split(","):
            begun = time.monotonic()
            try:
                results[name] = globals()[f"check_{name}"](options, folder)
                status = "ok"
            except (AssertionError, subprocess.SubprocessError) as error:
                results[name], status = {"failed": str(error)}, "FAIL"
                failed.append(name)
            text = json.dumps(results[name])
            print(f"{status:5} {name:9} {time.monotonic() - begun:4.0f} s  {text}", flush=True)
    if options.output:
        pathlib.Path(options.output).write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, help="processes; default: one a GPU")
    parser.add_argument("--cpu", action="store_true", help="without GPUs, with tiny networks")
    parser.add_argument("--checks", default=",".join(CHECKS), help="which of them, in this order")
    parser.add_argument("--output", help="JSON of all results")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--task", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.checks.split(",")) - set(CHECKS)
    if unknown:
        parser.error(f"--checks has {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}.")
    if options.workers is not None and options.workers < 2:
        parser.error(f"--workers={options.workers}; use 2 or more.")
    return options


def on_gpus(workers) -> int:
    """Number of workers, one a GPU; None: a power of two, of all GPUs or the most of them."""
    import local

    count, needed = len(local.visible_gpus()), workers or 2
    if count < needed:
        sys.exit(
            f"{count} visible GPUs for {needed} workers: this checks NCCL between workers with a "
            "GPU each, on a host with two GPUs or more, NVIDIA's driver and an environment of "
            "DC_TF_ACCELERATOR=gpu. --cpu --workers=2 runs the same checks on CPUs, without NCCL."
        )
    if workers:
        return workers
    most = 1 << (count.bit_length() - 1)
    if most < count:
        print(f"{most} of {count} GPUs, which divide the images; --workers=N takes N", flush=True)
    return most


# What runs in each worker.


def groups_role(task) -> dict:
    """Sums over each group of neighbours and over all workers, in one trace."""
    import tensorflow as tf

    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.collectives import direct_sum

    cluster = connect()
    rank, size = cluster.rank, cluster.size
    found = {}
    for members in (n for n in range(2, size + 1) if size % n == 0):
        first = rank - rank % members
        ranks = tuple(range(first, first + members))
        comm = cluster.group(ranks)

        @tf.function
        def both(x, comm=comm):
            everywhere = cluster.world.all_sum(x)
            rows = comm.gather(x)
            sums = [comm.all_sum(x)] + ([direct_sum(x, comm)] if comm.has_all_to_all else [])
            return sums, everywhere, rows

        sums, everywhere, rows = both(tf.fill([1025], float(rank + 1)))
        terms = [one + 1.0 for one in ranks]
        for own in sums:
            assert set(own.numpy()) == {sum(terms)}
        assert set(everywhere.numpy()) == {size * (size + 1) / 2}
        assert rows.numpy()[:, 0].tolist() == terms
        found[str(members)] = list(ranks)
    cluster.leave()
    return found


def steps_role(task) -> dict:
    """{kind: {part: its weights after ten steps}}, also "start", those before the first.

    Parts are what all workers hold, and the head of each super-class that this one serves.
    """
    import numpy as np
    import wire
    from step_case import Case, train

    from dc_tf.distributed.cluster import connect
    from dc_tf.experiment import Model

    cluster = connect()
    found = {}
    for kind in ROUNDING:
        model = Model(dropout=False, **wire.KINDS[kind].model)
        weights = train(cluster, Case(rotations=task["rotations"], steps=10, model=model))
        for count, name in ((0, "start"), (10, kind)):
            parts = {"shared": weights[count]["trunk"] + weights[count]["super"]}
            parts |= {f"head {s}": head for s, head in weights[count]["sub"].items()}
            found[name] = {
                part: np.concatenate([array.ravel() for array in arrays]).tolist()
                for part, arrays in parts.items()
            }
    cluster.leave()
    return found


def messages_role(task) -> dict:
    import wire

    from dc_tf.distributed.cluster import connect

    cluster = connect()
    found = timed(cluster, wire.messages(cluster), task["steps"])
    cluster.leave()
    return found


def step_role(task) -> dict:
    """{kind: seconds of each step}, each kind by itself, since heads are large."""
    import step
    import wire

    from dc_tf.distributed.cluster import connect

    cluster = connect()
    kind = wire.KINDS[task["kind"]]
    work = wire.step_of(step.our_step, cluster, kind, {**task["shape"], **task["model"]})
    found = timed(cluster, {task["kind"]: work}, task["steps"])
    cluster.leave()
    return found


def timed(cluster, works, steps) -> dict:
    """{name: seconds of each call}, in turns."""
    import tensorflow as tf

    seconds = {name: [] for name in works}
    for turn in range(steps + 2):
        for name, work in works.items():
            cluster.world.barrier()
            begun = time.perf_counter()
            tf.nest.map_structure(_wait, work())
            if turn > 1:  # the first ones trace and select kernels
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def _wait(result):
    """A GPU's result is there once a value of it is."""
    if hasattr(result, "numpy"):
        result.numpy()


def play(name, task) -> int:
    """Runs a role on this worker; its result goes to a file of the task's folder."""
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    index = config.get("task", {}).get("index", 0)
    result = ROLES[name](task)
    pathlib.Path(task["folder"], f"{index:04d}.json").write_text(json.dumps(result))
    return 0


ROLES = {"groups": groups_role, "steps": steps_role, "messages": messages_role, "step": step_role}


# The checks.


def check_groups(options, folder) -> dict:
    return role(options.workers, "groups", {})[0]


def check_equality(options, folder) -> dict:
    """{kind: distance of the weights from those of one worker, over what the steps changed}.

    With four workers or more also "KIND, groups": of two super-classes, so each half of the workers
    shares a head that the other half does not have.
    """
    cases = {"": 1} | ({", groups": 2} if options.workers >= 4 else {})
    found = {}
    for name, rotations in cases.items():
        task = {"rotations": rotations}
        (alone,) = role(1, "steps", task)
        spread = role(options.workers, "steps", task)
        for kind, most in ROUNDING.items():
            distance = max(largest_distance(alone, one, kind) for one in spread)
            found[kind + name] = distance
            assert distance < most, f"{kind}{name}: {distance:.2g} of what ten steps change"
    return found


def largest_distance(alone, other, kind) -> float:
    """Of a worker's parts from those of one worker, over what the steps changed there."""
    import numpy as np

    distances = []
    for part, weights in other[kind].items():
        start, one = (np.array(alone[name][part]) for name in ("start", "gradients"))
        distances.append(np.linalg.norm(np.array(weights) - one) / np.linalg.norm(one - start))
    return float(max(distances))


def check_kill(options, folder) -> dict:
    """The run's exit code after a worker was killed and all were started again."""
    workdir = pathlib.Path(folder, "kill")
    launcher = launched(options, folder, workdir, "--max_restarts=1")
    wait_for_step(launcher, workdir)
    os.kill(children_of(launcher.pid)[-1], signal.SIGKILL)
    out, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, f"exit code {launcher.returncode}: {err[-1500:]}"
    assert "restart 1 of 1" in err, "the launcher restarted nobody"
    return {"exit_code": 0, "steps": last_step(workdir)}


def check_stop(options, folder) -> dict:
    """Exit codes of a run that is stopped, and of the same command again."""
    workdir = pathlib.Path(folder, "stop")
    launcher = launched(options, folder, workdir)
    wait_for_step(launcher, workdir)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == STOPPED, f"exit code {launcher.returncode}: {err[-1500:]}"
    stopped_at = last_step(workdir)
    launcher = launched(options, folder, workdir)
    _, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, f"resumed: exit code {launcher.returncode}: {err[-1500:]}"
    assert last_step(workdir) > stopped_at
    return {"stopped_at": stopped_at, "steps": last_step(workdir)}


def check_messages(options, folder) -> dict:
    import wire

    found = slowest(role(options.workers, "messages", {"steps": 10}))
    sent = wire.LARGE_BYTES * 2 * (options.workers - 1) / options.workers
    result = {
        "sent_gb_per_s": sent / found["large"] / 1e9,
        "ring_us": 1e6 * found["in rings"] / wire.SHORT_TIMES,
    }
    if "directly" in found:  # not over NCCL
        result["direct_us"] = 1e6 * found["directly"] / wire.SHORT_TIMES
    return result


def check_step(options, folder) -> dict:
    """{kind: seconds}."""
    task = {"steps": 2, "shape": CPU_SHAPE, "model": {}}
    if not options.cpu:
        task = {"steps": 10, "shape": GPU_SHAPE, "model": {"compute_dtype": "bfloat16"}}
    found = {}
    for kind in STEP_KINDS:
        found |= slowest(role(options.workers, "step", {**task, "kind": kind}))
    return found


def slowest(of_workers) -> dict:
    """{name: median seconds of the slowest worker}."""
    return {
        name: statistics.median(
            max(turn) for turn in zip(*(one[name] for one in of_workers), strict=True)
        )
        for name in of_workers[0]
    }


# Processes.


def role(workers, name, task) -> list[dict]:
    """What a role returns on each worker, started by the launcher."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "launch" / "local.py"), f"--workers={workers}"]
        program = shlex.join([sys.executable, str(ROOT / "benchmarks" / "gpu_workers.py")])
        command += [f"--program={program}", "--"]
        command += [f"--role={name}", f"--task={json.dumps({**task, 'folder': folder})}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-1500:]
        return [json.loads(path.read_text()) for path in sorted(pathlib.Path(folder).iterdir())]


def launched(options, folder, workdir, *flags) -> subprocess.Popen:
    """A training run, under the launcher."""
    data = pathlib.Path(folder, "data")
    if not data.exists():
        generate = ["generate", f"--output={data}", "--images=256", "--size=64"]
        subprocess.run([sys.executable, "-m", "dc_tf", *generate], check=True, capture_output=True)
    settings = {**SETTINGS, "data": {"path": str(data)}}
    command = [sys.executable, str(ROOT / "launch" / "local.py"), f"--workers={options.workers}"]
    command += [*flags, "--", "train", f"--workdir={workdir}"]
    command.append(f"--params_override={json.dumps(settings)}")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(launcher, workdir) -> None:
    """Returns when the run has come to DISTURBED_AT."""
    until = time.monotonic() + 180
    while last_step(workdir) < DISTURBED_AT:
        assert launcher.poll() is None, f"the run ended before: {launcher.communicate()[1][-1500:]}"
        assert time.monotonic() < until, "the run did not come to its steps in 180 s"
        time.sleep(0.05)


def last_step(workdir) -> int:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else -1


def children_of(pid) -> list[int]:
    """Process ids, oldest first."""
    return sorted(
        int(child)
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    )


if __name__ == "__main__":
    sys.exit(main())
