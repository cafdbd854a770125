"""This process's task in TF_CONFIG, read without TensorFlow, which takes seconds to import.

task = task_from_environment()
task.rank, task.size
"""

import dataclasses
import json
import os

from dc_tf.errors import ConfigError

_TF_CONFIG_FORM = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


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


def parse_tf_config(text: str | None) -> TaskSpec:
    """Reads TF_CONFIG; none or an empty one means a process alone.

    Raises:
        ConfigError: not JSON, unknown roles, or a task that is not in the cluster.
    """
    if not text or not text.strip() or text.strip() == "{}":
        return TaskSpec()
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        task_type, index = task["type"], int(task["index"])
        if not all(isinstance(addresses, list) for addresses in jobs.values()):
            raise TypeError("addresses are a list")
        named = [(job, i, address) for job in jobs for i, address in enumerate(jobs[job])]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"TF_CONFIG is {text!r}; expected the form {_TF_CONFIG_FORM}.") from error
    unknown = sorted(set(jobs) - {"chief", "worker"})
    if unknown:
        raise ConfigError(f"TF_CONFIG names the jobs {unknown}; use only 'chief' and 'worker'.")
    named.sort(key=lambda entry: (entry[0] != "chief", entry[1]))
    job = tuple((name, i) for name, i, _ in named)
    if (task_type, index) not in job:
        raise ConfigError(
            f"TF_CONFIG's task is {task_type} {index}, which is not one of its cluster's "
            f"{len(job)} tasks; 'index' counts from 0 within 'type'."
        )
    return TaskSpec(tuple(address for _, _, address in named), job.index((task_type, index)), job)


def task_from_environment() -> TaskSpec:
    """The task in the environment variable TF_CONFIG; see `parse_tf_config`."""
    return parse_tf_config(os.environ.get("TF_CONFIG"))
