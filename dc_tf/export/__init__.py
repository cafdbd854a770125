"""Networks as files for others: SavedModel, Keras, ONNX, and weights of PyTorch.

    dc_tf.export("RUN", "MODEL", format="saved_model", sobel="layer", stage="", overwrite=False)

The package can be called: that is `dc_tf.api.export`, see its help. Python gives `dc_tf` one
attribute `export`, and importing a module of this package would put the package in its place.
"""

import importlib
import inspect
import sys
import types


class _CallablePackage(types.ModuleType):
    def __call__(self, *args, **kwargs):
        return _function()(*args, **kwargs)

    @property
    def __signature__(self):
        return inspect.signature(_function())


def _function():
    """`dc_tf.api.export`; by name, since it stands on what this package holds."""
    return importlib.import_module("dc_tf.api").export


sys.modules[__name__].__class__ = _CallablePackage
