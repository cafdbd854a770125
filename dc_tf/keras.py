"""The one place where Keras is imported: the API of Keras 2, and Keras 3 for files of it.

Keras 3 does not support MultiWorkerMirroredStrategy, and tf-models-official is built on
`tf_keras`. On TensorFlow 2.15 the same API is `tf.keras`, whichever package that is: what
tf-models-official and tensorflow-addons use there.

    from dc_tf import keras
    keras.layers.Dense(10)
    keras.keras_3().saving.load_model("theirs.keras")
"""

import importlib
import os
import sys
import types

import tensorflow as tf

from dc_tf.errors import ConfigError


def _find_classes_in(package):
    """Makes `load_model` find the classes of a file in `package`, keras or tf_keras.

    In TensorFlow 2.15 both have the same public names, and the one that was imported last has them
    all. tensorflow-addons imports keras. With layers of both, Keras connects a model for ever.
    """
    from tensorflow.python.util import tf_export

    importlib.import_module("keras")  # here, so that it is not imported later
    for name in [name for name in sys.modules if name.startswith(f"{package}.src.")]:
        for symbol in list(vars(sys.modules[name]).values()):
            if getattr(symbol, "__module__", None) == name and hasattr(symbol, "__dict__"):
                for public in vars(symbol).get("_keras_api_names", ()):
                    tf_export._NAME_TO_SYMBOL_MAPPING[public] = symbol


if tf.__version__.startswith("2.15."):
    from tensorflow import keras as _keras
    from tensorflow.python.autograph.core import config

    # As in later releases: AutoGraph leaves tf_keras as it is. This one knows the name keras alone,
    # and compiles all of tf_keras anew for `fit` and `predict`, which then take minutes.
    config.CONVERSION_RULES += (config.DoNotConvert("tf_keras"),)
    _find_classes_in(_keras.layers.Layer.__module__.partition(".")[0])
else:
    import tf_keras as _keras

Model = _keras.Model
Sequential = _keras.Sequential
applications = _keras.applications
initializers = _keras.initializers
layers = _keras.layers
mixed_precision = _keras.mixed_precision
models = _keras.models
optimizers = _keras.optimizers


def keras_3() -> types.ModuleType:
    """Keras 3 with TensorFlow as its backend, beside Keras 2 in the same process.

    Raises:
        ConfigError: it is missing, or was imported with another backend.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        import keras
    except ImportError as error:
        raise ConfigError(
            "a file of Keras 3 needs the package keras, which is missing; install it with 'pip "
            'install "keras>=3"\', or give the network as a SavedModel.'
        ) from error
    if not keras.__version__.startswith("3"):
        raise ConfigError(
            f"a file of Keras 3 needs the package keras 3, but {keras.__version__} is installed "
            f"with TensorFlow {tf.__version__}; use the environment of TensorFlow 2.20, or give "
            "the network as a SavedModel."
        )
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"Keras 3 computes with {keras.backend.backend()} here; set KERAS_BACKEND=tensorflow."
        )
    return keras
