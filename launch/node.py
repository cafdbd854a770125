#!/usr/bin/env python3
"""Starts a worker for each GPU of this machine, one of several that TF_CONFIG names.

    launch/node.py -- train --config_file=deepercluster_yfcc100m --workdir=/shared/run
    dc_tf launch --nodes -- train ...                                          # the same

For services that start one process for each machine and set TF_CONFIG for it, such as Vertex AI
(chief and workers), Kubeflow or Ray. The same command runs on every machine. A machine host:2222
becomes workers at host:2222, host:2223, ..., as many as it has GPUs; so all machines need equally
many, or the same --workers=N on all, and these ports have to be free and open between them. Ranks
go machine by machine, the chief's first. Without TF_CONFIG it is launch/local.py on one machine.

Output, supervision and exit codes are those of launch/local.py. With --max_restarts=K on every
machine, all start again when a worker anywhere has failed, at the same ports. Needs nothing but
Python.
"""

import json
import os
import sys

import local

_FORM = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", ...}}'


def main(argv=None) -> int:
    """Returns the exit code of this machine's workers; see the module's text."""
    gpus = local.visible_gpus()
    argv = list(sys.argv[1:] if argv is None else argv)
    options, command = local.parse(argv, __doc__, default_workers=max(1, len(gpus)))
    try:
        devices = local.share_devices(options.workers, gpus)
        configs = worker_configs(os.environ.get("TF_CONFIG"), options.workers)
    except local.UsageError as error:
        print(f"{local.NAME}: {error}", file=sys.stderr)
        return local.WRONG_USAGE
    return local.supervise(options, command, devices, configs)


def worker_configs(text: str | None, workers: int) -> list[str] | None:
    """TF_CONFIG of each worker of this machine.

    Args:
        text: TF_CONFIG, whose tasks are machines; None, "" and "{}" for one machine alone.
        workers: of each machine.

    Returns:
        list of str by local index; None for one machine alone.

    Raises:
        UsageError: TF_CONFIG names no machines, or machines whose workers would share a port.
    """
    config = _read(text)
    if not config:
        return None
    nodes, own = _nodes(config)
    addresses = [f"{host}:{port + i}" for host, port in nodes for i in range(workers)]
    _check_ports(nodes, workers)
    return [
        json.dumps(
            {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": own * workers + i},
            }
        )
        for i in range(workers)
    ]


def _read(text):
    if text is None or not text.strip():
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise local.UsageError(f"TF_CONFIG is not JSON ({error}); expected {_FORM}.") from error
    if config and not (isinstance(config, dict) and isinstance(config.get("cluster"), dict)):
        raise local.UsageError(f"TF_CONFIG has no cluster; expected {_FORM}.")
    return config


def _nodes(config):
    """([(host, port) of each machine, the chief's first], index of this one)."""
    cluster = {"chief" if job == "master" else job: v for job, v in config["cluster"].items() if v}
    if "ps" in cluster:
        raise local.UsageError(
            "TF_CONFIG has tasks of the job 'ps'; dc_tf uses no parameter servers, so start the "
            "job without them."
        )
    tasks = [(job, i) for job in ("chief", "worker") for i in range(len(cluster.get(job, ())))]
    task = config.get("task")
    task = task if isinstance(task, dict) else {}
    kind = "chief" if task.get("type") == "master" else task.get("type")
    own = (kind, int(task["index"]) if str(task.get("index")).isdigit() else None)
    if own not in tasks:
        raise local.UsageError(
            f"TF_CONFIG makes this machine {task.get('type')} {task.get('index')}, and its cluster "
            f"has {', '.join(f'{job} {i}' for job, i in tasks) or 'no chief and no worker'}; only "
            "those train, so start the command on them alone."
        )
    return [_address(cluster[job][i]) for job, i in tasks], tasks.index(own)


def _address(text):
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise local.UsageError(
            f"TF_CONFIG has the address {text!r}, which is not host:port or [IPv6]:port; give each "
            "machine a name and its first port, as in host0:2222."
        )
    return host, int(port)


def _check_ports(nodes, workers):
    owners = {}
    names = [(host.lower(), first) for host, first in nodes]
    for host, first in nodes:
        if first + workers - 1 > 65535:
            raise local.UsageError(
                f"{workers} workers from {host}:{first} on need ports up to {first + workers - 1}; "
                "use a first port of 65535 less the number of workers, or a smaller one."
            )
        for port in range(first, first + workers):
            other = owners.setdefault((host.lower(), port), first)
            if other != first or names.count((host.lower(), first)) > 1:
                raise local.UsageError(
                    f"TF_CONFIG names {host}:{other} and {host}:{first}, whose {workers} workers "
                    f"would share port {port}; it should name each machine once, or ports that are "
                    f"{workers} apart."
                )


if __name__ == "__main__":
    sys.exit(main())
