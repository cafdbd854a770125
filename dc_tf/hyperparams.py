"""`official.modeling.hyperparams` without importing TensorFlow, which it needs only for files.

    from dc_tf.hyperparams import Config

So commands refuse wrong settings before TensorFlow's import, which takes seconds.
"""

import importlib
import sys
import types


class _Later(types.ModuleType):
    """A placeholder for a module that its users access inside functions only."""

    def __getattr__(self, name):
        return getattr(importlib.import_module(self.__name__), name)


def _import_config():
    absent = [name for name in ("tensorflow", "tf_keras") if name not in sys.modules]
    sys.modules.update((name, _Later(name)) for name in absent)
    try:
        from official.modeling.hyperparams import Config
    finally:
        for name in absent:
            del sys.modules[name]
    return Config


Config = _import_config()
