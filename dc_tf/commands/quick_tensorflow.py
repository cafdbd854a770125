"""Imports TensorFlow for commands that need neither Keras nor its dependencies.

    import_tensorflow()
    import tensorflow as tf    # anywhere, at no cost

TensorFlow imports Keras, which imports pandas, SciPy, h5py and Pillow, and the client library of
Google's services. All are optional; without them the import takes two thirds of the time. They can
be imported later as usual.
"""

import contextlib
import gc
import sys

_LEFT_OUT = ("keras", "tf_keras", "pandas", "scipy", "h5py", "PIL", "googleapiclient")


def import_tensorflow() -> None:
    """Imports TensorFlow without its optional dependencies."""
    with _as_if_not_installed(_LEFT_OUT), _without_collections():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def _as_if_not_installed(names):
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import raise ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _without_collections():
    """Inside, garbage collection is off: an import makes many objects and keeps them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
