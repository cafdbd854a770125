"""Lets commands import TensorFlow without its optional dependencies.

    with quick_tensorflow():
        import tensorflow as tf    # here, or in any module that is imported here

TensorFlow imports Keras, which imports pandas, SciPy, h5py and Pillow, and the client library of
Google's services. All are optional; without them the import takes two thirds of the time. They can
be imported later as usual.
"""

import contextlib
import gc
import importlib.abc
import sys
from collections.abc import Iterator

_LEFT_OUT = ("keras", "tf_keras", "pandas", "scipy", "h5py", "PIL", "googleapiclient")


@contextlib.contextmanager
def quick_tensorflow() -> Iterator[None]:
    """Inside, the first import of TensorFlow leaves out its optional dependencies."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow alone, with a loader that leaves out its optional dependencies."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None:
            load = spec.loader.exec_module

            def load_quickly(module):
                with _as_if_not_installed(_LEFT_OUT), _without_collections():
                    load(module)

            spec.loader.exec_module = load_quickly
        return spec


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
