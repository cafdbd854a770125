"""Imports TensorFlow for a command that needs neither Keras nor what Keras and others bring along.

    import_tensorflow()
    import tensorflow as tf    # anywhere, at no cost

TensorFlow imports its Keras, and that pandas, SciPy, h5py and Pillow; and it imports the client
library of Google's services, in case it runs there. It does without each that is not installed, and
without them takes two thirds of the time. They can be imported later as usual.
"""

import contextlib
import gc
import sys

_LEFT_OUT = ("keras", "tf_keras", "pandas", "scipy", "h5py", "PIL", "googleapiclient")


def import_tensorflow():
    with _as_if_not_installed(_LEFT_OUT), _without_collections():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def _as_if_not_installed(names):
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import an ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _without_collections():
    """Inside, nobody looks for garbage among the many objects that an import makes and keeps."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
