"""Checks the GPUs, memory and disks of this worker's machine.

gpus = check_devices(report, task)
check_memory(report, plan, neighbours=1)
"""

import os
import pathlib
import shutil

import tensorflow as tf

import dc_tf
from dc_tf import kernels
from dc_tf.distributed.collectives import ALONE
from dc_tf.memory import free_memory, gpu_memory, size
from dc_tf.precision import AUTO, choose
from dc_tf.training.precisions import choose_precisions


def check_devices(report, task) -> int:
    """Reports cores, memory and GPUs; returns the number of GPUs visible to this worker."""
    gpus = tf.config.list_physical_devices("GPU")
    cores = len(os.sched_getaffinity(0))
    report.ok("cpu", f"{cores} cores, {size(free_memory())} of memory free")
    report.ok("cpu kernels", f"{kernels.name(kernels.enabled())} ({dc_tf.KERNELS.why})")
    memory = gpu_memory()
    for index, gpu in enumerate(gpus):
        name = tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        free = f", {size(memory[index])} free" if index < len(memory) else ""
        report.ok(f"gpu {index}", f"{name}{free}")
    if not gpus:
        report.warn("gpu", "none is visible: CPUs are used", _why_no_gpu())
    elif len(gpus) > 1 and task.local_index >= len(gpus):
        report.fail(
            "gpu",
            f"this is worker {task.local_index} of its host, which has {len(gpus)} visible GPUs",
            "start one worker for each GPU",
        )
    return len(gpus)


def check_precision(report, experiment=None, world=ALONE) -> None:
    """Reports the speed of bfloat16 here and the choice of "auto"; starts TensorFlow.

    Args:
        report: Report.
        experiment: whose settings are checked, or None.
        world: Communicator of the workers, all of which call this.
    """
    shared = world.size > 1
    if experiment is None:
        for work in ("convolution", "product"):
            report.ok("precision", f"of a {work}: {choose(AUTO, work, comm=world)}", shared=shared)
        return
    chosen = choose_precisions(experiment, world)
    for line in chosen.lines:
        report.ok("precision", line, shared=shared)
    for warning in chosen.warnings:
        report.warn("precision", warning, "use auto or float32", shared=shared)


def check_memory(report, plan, neighbours) -> None:
    """Reports whether memory is enough for a plan.

    Args:
        report: Report.
        plan: planning.plan.Plan.
        neighbours: workers on this host, this one included.
    """
    _compare(
        report,
        "memory",
        plan.host_bytes * neighbours,
        free_memory(),
        f"of host memory{_of_all(neighbours)}",
        "lower clusters or the batch, use more workers, or give each more memory",
    )
    if plan.on_gpu:
        free = gpu_memory()
        _compare(
            report,
            "gpu memory",
            plan.device_bytes,
            max(free) if free else 0,
            "of GPU memory",
            "raise `accumulate`, use model.compute_dtype=bfloat16, or lower the batch",
        )


def check_disks(report, plan, scratch, run_folder, neighbours) -> None:
    """Reports whether disks are enough for a plan.

    Args:
        report, plan, neighbours: as of `check_memory`.
        scratch: folder of this worker's features.
        run_folder: of the run, shared by all workers.
    """
    needed, shared = plan.scratch_bytes * neighbours, ""
    if _device(scratch) == _device(run_folder):
        needed += plan.shared_bytes
        shared = ", with the run on the same disk"
    _compare(
        report,
        "scratch disk",
        needed,
        free_disk(scratch),
        f"in {scratch}{_of_all(neighbours)}{shared}",
        "name a larger disk in DC_TF_SCRATCH, or lower clustering.whitening_dim",
    )
    _compare(
        report,
        "run folder disk",
        plan.shared_bytes,
        free_disk(run_folder),
        f"in {run_folder}",
        "use a larger disk, or lower keep_checkpoints or keep_clusterings",
    )


def free_disk(folder) -> int:
    """Free bytes of the disk of a folder, which need not exist."""
    return shutil.disk_usage(_existing(folder)).free


def _compare(report, what, needed, free, where, remedy):
    if needed > free:
        report.fail(what, f"needs {size(needed)} {where}; {size(free)} are free", remedy)
    elif needed > 0.8 * free:
        report.warn(what, f"needs {size(needed)} {where} of {size(free)} that are free", remedy)
    else:
        report.ok(what, f"needs {size(needed)} {where}; {size(free)} are free")


def _of_all(neighbours):
    return f" for {neighbours} workers on this host" if neighbours > 1 else ""


def _existing(folder):
    path = pathlib.Path(folder).absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def _device(folder):
    return os.stat(_existing(folder)).st_dev


def _why_no_gpu():
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them; unset it if the host has any"
    if shutil.which("nvidia-smi") is None:
        return "nothing, if the host has none; else install NVIDIA's driver"
    return 'install TensorFlow with CUDA: the extra "gpu"; see TF_CPP_MIN_LOG_LEVEL=0'
