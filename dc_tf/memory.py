"""Free memory of this worker's machine, and readable sizes.

free_memory(), gpu_memory("free"), size(12.3e9)
"""

import pathlib
import subprocess

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_memory() -> int:
    """Bytes of host memory that this process may still allocate."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return min([free, *(_left(*paths) for paths in _CGROUPS)])


def gpu_memory(what="free") -> list[int]:
    """Bytes of each GPU that the driver lists; empty without nvidia-smi.

    Args:
        what: "free" or "total". TensorFlow allocates nearly all of it when it starts.
    """
    command = ["nvidia-smi", f"--query-gpu=memory.{what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.split() if done.returncode == 0 else []
    return [int(line) << 20 for line in lines if line.isdigit()]


def size(count: float) -> str:
    """Bytes as text: "12.3 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def _left(limit, used):
    """Bytes that a control group may still allocate; a huge number without a limit."""
    try:
        limit = pathlib.Path(limit).read_text().strip()
        used = pathlib.Path(used).read_text().strip()
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max"
        return 1 << 62
