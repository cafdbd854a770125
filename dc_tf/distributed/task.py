"""This process's task in TF_CONFIG, read without TensorFlow, which takes seconds to import.

    task = task_from_environment()
    task.rank, task.size

All commands read TF_CONFIG here, so all refuse the same with the same words. The rules:

- No TF_CONFIG, an empty one or `{}` is a process alone.
- Workers are the tasks of the job "worker", after the one of "chief" or its older name "master".
- Jobs without tasks count as absent. "evaluator" tasks take no part in training: they are left out
  of the cluster, and a process that is one is refused. "ps" tasks are refused.
- An address is host:port, with an IPv6 host in brackets, and no two workers have the same.
"""

import dataclasses
import ipaddress
import json
import os
import re

from dc_tf.errors import ConfigError

_FORM = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_JOBS = ("chief", "master", "worker", "ps", "evaluator")
_CHIEF = {"master": "chief"}  # names that TensorFlow treats as equal
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:/\[\]@,]+):([0-9]{1,6})")
_LOCAL = {"localhost", "127.0.0.1", "[::1]"}
_SHOWN = 200  # characters of a TF_CONFIG in messages


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """This process's place in the cluster of TF_CONFIG.

    Attributes:
        addresses: "host:port" of every worker by rank; empty for a process alone.
        rank: place of this process in `addresses`.
        job: TensorFlow's job name for each rank ("chief" or "worker") and task index.
    """

    addresses: tuple[str, ...] = ()
    rank: int = 0
    job: tuple[tuple[str, int], ...] = (("worker", 0),)

    @property
    def size(self) -> int:
        return max(1, len(self.addresses))

    @property
    def local_index(self) -> int:
        """Place of this worker among those on the same host; picks its GPU."""
        return self._hosts[: self.rank].count(self._hosts[self.rank]) if self.addresses else 0

    @property
    def local_size(self) -> int:
        """How many workers share the host of this process, itself included."""
        return self._hosts.count(self._hosts[self.rank]) if self.addresses else 1

    @property
    def _hosts(self):
        return [address.rsplit(":", 1)[0] for address in self.addresses]

    def tf_config(self) -> str:
        """TF_CONFIG in the one form that every version of TensorFlow takes."""
        if not self.addresses:
            return "{}"
        cluster: dict[str, list[str]] = {}
        for (job, _), address in zip(self.job, self.addresses, strict=True):
            cluster.setdefault(job, []).append(address)
        job, index = self.job[self.rank]
        return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})


def task_from_environment() -> TaskSpec:
    """The task in the environment variable TF_CONFIG; see `parse_tf_config`."""
    return parse_tf_config(os.environ.get("TF_CONFIG"))


def environment_without_task() -> dict[str, str]:
    """The environment of this process without TF_CONFIG, for a process alone."""
    return {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}


def parse_tf_config(text: str | None) -> TaskSpec:
    """Reads TF_CONFIG.

    Args:
        text: its value, or None if it is not set.

    Raises:
        ConfigError: one sentence that says what is wrong and what would work.
    """
    config = _read_json(text)
    if not config:
        return TaskSpec()
    jobs = _jobs(config)
    workers = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
    addresses = tuple(address for job in ("chief", "worker") for address in jobs.get(job, ()))
    _check_addresses(addresses)
    task = _task(config, jobs)
    return TaskSpec(addresses, workers.index(task), tuple(workers))


def _read_json(text) -> dict:
    """The object in TF_CONFIG; {} for a process alone."""
    if text is None or not text.strip():
        return {}
    try:
        config = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"is {_shown(text)}, which is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise _wrong(f"is {_shown(text)}, which is not a JSON object")
    return config


def _unique(pairs):
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is given twice")
    return dict(pairs)


def _jobs(config) -> dict[str, list[str]]:
    """{"chief" or "worker" or "evaluator": addresses}, without jobs that have no tasks."""
    cluster = config.get("cluster")
    if not isinstance(cluster, dict):
        given = f"has the cluster {_shown(cluster)}" if "cluster" in config else "has no cluster"
        raise _wrong(f"{given}; it must map 'worker' to a list of addresses")
    for job, addresses in cluster.items():
        _check_job(job, addresses)
    jobs = {_CHIEF.get(job, job): addresses for job, addresses in cluster.items() if addresses}
    if cluster.get("chief") and cluster.get("master"):
        raise _wrong("has a chief and a master, which is its older name; keep one of them")
    if len(jobs.get("chief", ())) > 1:
        raise _wrong(f"has {len(jobs['chief'])} chiefs; use one, and the job 'worker' for others")
    if "ps" in jobs:
        raise _wrong(
            f"has {len(jobs['ps'])} tasks of the job 'ps'; dc_tf uses no parameter servers, so "
            "leave them out"
        )
    if not jobs.keys() & {"chief", "worker"}:
        raise _wrong("names no workers; list them as 'worker', or unset it to work alone")
    return jobs


def _check_job(job, addresses):
    if job not in _JOBS:
        known = job.lower() if job.lower() in _JOBS else "chief' and 'worker"
        raise _wrong(f"has the unknown job {job!r}; use '{known}'")
    if not isinstance(addresses, list):
        raise _wrong(f"has {_shown(addresses)} as {job!r}; it must be a list of addresses")


def _check_addresses(addresses):
    seen = {}
    for address in addresses:
        same = normal_address(address)
        if same in seen:
            raise _wrong(
                f"has the address {address} twice; give each worker one of its own"
                if address == seen[same]
                else f"has {seen[same]} and {address}, which are one address; give each worker one "
                "of its own"
            )
        seen[same] = address


def normal_address(address) -> tuple[str, int]:
    """Host and port, the same for all spellings of an address.

    Raises:
        ConfigError: not host:port or [IPv6]:port.
    """
    found = isinstance(address, str) and _ADDRESS.fullmatch(address)
    if not found:
        raise _wrong(f"has the address {_shown(address)}, which is not host:port or [IPv6]:port")
    host, port = _same_host(found[1].lower()), int(found[2])
    if not 0 < port < 65536:
        raise _wrong(f"has the address {_shown(address)}, whose port is not in 1 to 65535")
    return "localhost" if host in _LOCAL else host, port


def _same_host(host):
    """A name without the dot at its end; an IPv6 address in its shortest spelling."""
    if not host.startswith("["):
        return host.rstrip(".")
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    except ValueError:
        return host


def require_alone(command: str) -> None:
    """Refuses several workers, for a command that they could not share.

    Raises:
        ConfigError: TF_CONFIG names several.
    """
    size = task_from_environment().size
    if size > 1:
        raise ConfigError(
            f"TF_CONFIG names {size} workers, but dc_tf {command} runs on one; unset TF_CONFIG and "
            "start it once."
        )


def _task(config, jobs) -> tuple[str, int]:
    """(job, index) of this process."""
    task = config.get("task")
    if not isinstance(task, dict):
        given = f"has the task {_shown(task)}" if "task" in config else "has no task"
        raise _wrong(f"{given}; it must say 'type' and 'index' of this process")
    kind, index = task.get("type"), _index(task.get("index"))
    if not isinstance(kind, str) or kind not in _JOBS:
        raise _wrong(f"has the task type {_shown(kind)}; use 'chief' or 'worker'")
    if kind == "evaluator":
        raise _wrong(
            "makes this process an evaluator, which takes no part in training; start only chief "
            "and workers, and `dc_tf evaluate` afterwards"
        )
    kind = _CHIEF.get(kind, kind)
    count = len(jobs.get(kind, ()))
    if index >= count:
        raise _wrong(
            f"makes this process {kind} {index}, and its cluster has {count} of that type; 'index' "
            "counts from 0 within 'type'"
        )
    return kind, index


def _index(value) -> int:
    """A whole number from 0 on, or a text of digits, which TensorFlow takes as well."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(f"has the task index {_shown(value)}; use a whole number from 0 on")
    return value


def _shown(value) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _wrong(what):
    return ConfigError(f"TF_CONFIG {what}; expected the form {_FORM}.")
