"""An error of the user on one worker becomes an error on all, so that none waits for the others.

    with raise_on_all(cluster.world):
        check_own_files()

What is raised is a `RaisedOnAll`, by which the caller knows that all workers raise one.
"""

import contextlib
from collections.abc import Iterator

import numpy as np

from dc_tf.distributed.collectives import Communicator, all_gather
from dc_tf.errors import ConfigError, ConfigErrorOnAll, DataError, DataErrorOnAll

_KINDS = (None, ConfigErrorOnAll, DataErrorOnAll)  # indexed by the number that workers gather


@contextlib.contextmanager
def raise_on_all(world: Communicator) -> Iterator[None]:
    """Raises on all workers at its end if the body raised on any; the body must not communicate.

    Args:
        world: Communicator of the workers.

    Raises:
        ConfigErrorOnAll, DataErrorOnAll: as `raise_if_any`.
    """
    own = None
    try:
        yield
    except (ConfigError, DataError) as error:
        own = error
    raise_if_any(own, world)


def raise_if_any(own: ConfigError | DataError | None, world: Communicator) -> None:
    """Raises on all workers if any of them has an error.

    Args:
        own: this worker's error, or None.
        world: Communicator of the workers.

    Raises:
        ConfigErrorOnAll, DataErrorOnAll: from this worker's own error where there is one;
            elsewhere it names the first worker that has one.
    """
    kind = 0 if own is None else 1 if isinstance(own, ConfigError) else 2
    kinds = all_gather(kind, world)
    failed = np.flatnonzero(kinds)
    if not failed.size:
        return
    if isinstance(own, DataError):
        raise DataErrorOnAll(str(own), own.result) from own
    if own is not None:
        raise ConfigErrorOnAll(str(own)) from own
    first = failed[0]
    raise _KINDS[kinds[first]](f"worker {first} failed; see its log.")
