"""Starts the browser: opens what it shows, prints the address, serves until Ctrl-C.

browse(Source(run="/runs/mine"))
"""

import ipaddress
import os
import socket
import sys

from dc_tf.distributed import stop_request
from dc_tf.distributed.task import require_alone
from dc_tf.errors import ConfigError
from dc_tf.paths import check_folder
from dc_tf.report.browser.guard import Access, new_token
from dc_tf.report.browser.site import Source, check_source, open_site

LOCAL = "127.0.0.1"
_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def browse(
    source: Source,
    workdir: str | None = None,
    host: str = LOCAL,
    port: int = 0,
    allow_remote: bool = False,
) -> dict:
    """Serves the pages until the process is interrupted.

    Args:
        source: what to show.
        workdir: folder for what is made, and for selections; None: `browser` in the folder of the
            run or of the clusters.
        host: address to listen at.
        port: 0 takes a free one.
        allow_remote: whether `host` may be one that other machines reach.

    Returns:
        dict of workdir and selections, {name: number of rows}.

    Raises:
        ConfigError: what cannot work; nothing was started.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C before it serves; the same call resumes.
    """
    require_alone("browse")
    check_source(source)
    check_host(host, allow_remote)
    workdir = workdir or os.path.join(source.run or source.clusters, "browser")
    listening = listen(host, port)
    with listening:
        with stop_request.signals_handled():
            check_folder(workdir, "--workdir")
            site = open_site(source, workdir)
        _serve(site, listening, host, allow_remote)
    return {
        "workdir": os.path.abspath(workdir),
        "selections": {one.name: one.count for one in site.selections.all()},
    }


def _serve(site, listening, host, allow_remote):
    import uvicorn

    from dc_tf.report.browser.app import make_app

    port = listening.getsockname()[1]
    token = new_token()
    names = _NAMES | {host.lower()}
    if allow_remote:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    access = Access(token, frozenset(names), allow_remote, cookie=f"dc_tf_browse_{port}")
    config = uvicorn.Config(
        make_app(site, access),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        lifespan="off",
    )
    listening.listen(128)
    print(address(host, port, token), file=sys.stderr, flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has ended, and raises the signal again
        print("", file=sys.stderr)


def address(host: str, port: int, token: str) -> str:
    """The line that says where to look."""
    shown = LOCAL if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"Open http://{shown}:{port}/?token={token} in a browser; Ctrl-C ends the server."


def check_host(host: str, allow_remote: bool) -> None:
    """Refuses an address that other machines reach, unless that is asked for.

    Raises:
        ConfigError: it is one.
    """
    if allow_remote or _is_local(host):
        return
    raise ConfigError(
        f"--host={host} can be reached from other machines, and whoever has the address sees all "
        "images; add --allow_remote if that is meant, or tunnel to this machine with ssh -L."
    )


def _is_local(host):
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ConfigError: the address is not one of this machine, or in use.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        raise ConfigError(
            f"--host={host} --port={port} cannot be used: {error.strerror}; use another port, or "
            "--port=0 for a free one."
        ) from error
    return bound
