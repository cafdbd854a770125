#!/usr/bin/env python3
"""Starts a worker for each GPU of this machine, one of several that TF_CONFIG names.

    launch/node.py -- train --config_file=deepercluster_yfcc100m \\
        --params_override=data.path=/shared/data,init_from=/shared/rotnet --workdir=/shared/run
    dc_tf launch --nodes -- train ...                                          # the same

For services that start one process for each machine and set TF_CONFIG for it, such as Vertex AI
(chief and workers), Kubeflow or Ray. The same command runs on every machine. A machine host:2222
becomes workers at host:2222, host:2223, ..., as many as it has GPUs; so all machines need equally
many, or the same --workers=N on all, and these ports have to be free and open between them. Ranks
go machine by machine, the chief's first. Without TF_CONFIG it is launch/local.py on one machine.
Where no GPU is found, --workers=N is required, and the workers use the CPU. TF_CONFIG is read, and
refused, as by every command (dc_tf/distributed/task.py).

Output, supervision and exit codes are those of launch/local.py. With --max_restarts=K on every
machine, all start again when a worker anywhere has failed, at the same ports. Needs nothing but
Python.
"""

import json
import os
import sys

import local

if local.IN_REPOSITORY:
    sys.path.insert(0, str(local.ROOT))

from dc_tf.distributed.task import normal_address, parse_tf_config  # noqa: E402
from dc_tf.errors import ConfigError  # noqa: E402


def main(argv=None) -> int:
    """Returns the exit code of this machine's workers; see the module's text."""
    gpus = local.visible_gpus()
    argv = list(sys.argv[1:] if argv is None else argv)
    options, command = local.parse(argv, __doc__, workers_required=False)
    try:
        options.workers = options.workers or _one_for_each(gpus)
        devices = local.share_devices(options.workers, gpus)
        configs = worker_configs(os.environ.get("TF_CONFIG"), options.workers)
    except (local.UsageError, ConfigError) as error:
        print(f"{local.NAME}: {error}", file=sys.stderr)
        return local.WRONG_USAGE
    return local.supervise(options, command, devices, configs)


def _one_for_each(gpus):
    if not gpus:
        raise local.UsageError(
            f"no GPU was found: {local.why_no_gpu()}. Let this process see the machine's GPUs, or "
            "start workers on the CPU with --workers=N, the same N on all machines."
        )
    return len(gpus)


def worker_configs(text: str | None, workers: int) -> list[str] | None:
    """TF_CONFIG of each worker of this machine.

    Args:
        text: TF_CONFIG, whose tasks are machines; None, "" and "{}" for one machine alone.
        workers: of each machine.

    Returns:
        list of str by local index; None for one machine alone.

    Raises:
        ConfigError: TF_CONFIG describes no cluster; as every command says it.
        UsageError: it names machines whose workers would share a port.
    """
    task = parse_tf_config(text)
    if not task.addresses:
        return None
    nodes = [(host, int(port)) for host, _, port in (a.rpartition(":") for a in task.addresses)]
    _check_ports(nodes, workers)
    addresses = [f"{host}:{port + i}" for host, port in nodes for i in range(workers)]
    return [
        json.dumps(
            {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": task.rank * workers + i},
            }
        )
        for i in range(workers)
    ]


def _check_ports(nodes, workers):
    owners = {}
    for host, first in nodes:
        if first + workers - 1 > 65535:
            raise local.UsageError(
                f"{workers} workers from {host}:{first} on need ports up to {first + workers - 1}; "
                "use a first port of 65535 less the number of workers, or a smaller one."
            )
        for port in range(first, first + workers):
            other = owners.setdefault(normal_address(f"{host}:{port}"), f"{host}:{first}")
            if other != f"{host}:{first}":
                raise local.UsageError(
                    f"TF_CONFIG names {other} and {host}:{first}, whose {workers} workers would "
                    f"share port {port}; it should name each machine once, or ports that are "
                    f"{workers} apart."
                )


if __name__ == "__main__":
    local.end(main())
