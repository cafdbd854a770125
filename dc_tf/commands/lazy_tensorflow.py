"""Commands load TensorFlow at its first use, and without optional dependencies, as PyArrow.

    lazy_tensorflow.install()
    import tensorflow as tf    # here, or in any module; takes no time
    tf.constant(3)             # loads it

Many commands only read files and compute with NumPy, although modules that they share with others
name TensorFlow; loading it takes seconds. TensorFlow imports Keras, which imports pandas, SciPy,
h5py and Pillow, and the client library of Google's services. All are optional; without them it
loads in two thirds of the time, and Keras without pandas and SciPy in a quarter. PyArrow imports
pandas with the first array that it makes, to know its types; it does without. All can be imported
later as usual.
"""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import sys
import threading
import types
from collections.abc import Iterator

_NAME, _KERAS, _ARROW = "tensorflow", "tf_keras", "pyarrow"
_LEFT_OUT = ("keras", "tf_keras", "pandas", "scipy", "h5py", "PIL", "googleapiclient")
_KERAS_LEFT_OUT = ("pandas", "scipy")  # for data frames and rotations of NumPy images
_LOCK = threading.RLock()


def install() -> None:
    """From now on an import of TensorFlow is lazy, unless it is loaded already."""
    if _NAME not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Unloaded(types.ModuleType):
    """TensorFlow until its first use; then the same object is an ordinary module."""

    def __getattr__(self, name):
        with _LOCK:  # other threads wait until it is complete
            if isinstance(self, _Unloaded) and not self.__dict__.get("_is_loading"):
                _load(self)
                return getattr(self, name)
        # A name that it does not have, or not yet.
        return types.ModuleType.__getattribute__(self, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, not loaded, Keras and PyArrow; imports inside TensorFlow load it."""

    def find_spec(self, name, path=None, target=None):
        if name == _NAME:
            spec = self._found_by_others(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader)
            return spec
        if name in _QUICK:
            spec = self._found_by_others(name, path, target)
            if spec is not None:
                spec.loader = _QUICK[name](spec.loader)
            return spec
        if name.startswith(f"{_NAME}."):
            with _LOCK:
                parent = sys.modules[_NAME]
                if isinstance(parent, _Unloaded) and not parent.__dict__.get("_is_loading"):
                    _load(parent)
                    if name in sys.modules:  # by TensorFlow itself
                        return _present(sys.modules[name])
        return None

    def _found_by_others(self, name, path, target):
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        return next((spec for spec in found if spec is not None), None)


class _Loader(importlib.abc.Loader):
    """Leaves the module unloaded."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__class__ = _Unloaded


class _QuickKeras(_Loader):
    """Loads Keras without what it takes longest for."""

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        _execute(module, _KERAS_LEFT_OUT)


class _QuickArrow(_Loader):
    """Loads PyArrow, which then has looked for pandas and not found it.

    It looks again when something needs pandas, as `Table.to_pandas`.
    """

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        if "pandas" in sys.modules:  # which may have imported PyArrow, and is not complete then
            return
        finder = _NoPandas()
        sys.meta_path.insert(0, finder)
        try:
            module.array([0])
        finally:
            sys.meta_path.remove(finder)


class _NoPandas(importlib.abc.MetaPathFinder):
    """Refuses to import pandas. (PyArrow, being compiled, takes None in `sys.modules` for it.)"""

    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)
        return None


_QUICK = {_KERAS: _QuickKeras, _ARROW: _QuickArrow}


class _Present(importlib.abc.Loader):
    """Gives the importer a module that is there already, as it is."""

    def __init__(self, module):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec):
        return self._module

    def exec_module(self, module):
        module.__spec__ = self._spec


def _present(module):
    """A spec whose import is the module. Python takes the module's own, if it is there."""
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, _Present(module))
    return module.__spec__


def _load(module):
    lazy = module.__spec__.loader
    module.__spec__.loader = module.__loader__ = lazy.loader
    module.__dict__["_is_loading"] = True
    try:
        _execute(module, _LEFT_OUT)
    except BaseException:
        module.__spec__.loader = module.__loader__ = lazy
        raise
    finally:
        del module.__dict__["_is_loading"]
    module.__class__ = types.ModuleType


def _execute(module, left_out):
    with _as_if_not_installed(left_out), _without_collections():
        module.__loader__.exec_module(module)


@contextlib.contextmanager
def _as_if_not_installed(names) -> Iterator[None]:
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import raise ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Inside, garbage collection is off: an import makes many objects and keeps them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
