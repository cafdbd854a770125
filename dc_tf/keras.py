"""The one place where the Keras 2 API is imported.

Keras 3 does not support MultiWorkerMirroredStrategy, and tf-models-official is built on
`tf_keras`. On TensorFlow 2.15 the same API is TensorFlow's own `tf.keras`.

    from dc_tf import keras
    keras.layers.Dense(10)
"""

import importlib.util

if importlib.util.find_spec("tf_keras"):
    import tf_keras as _keras
else:
    from tensorflow import keras as _keras

Model = _keras.Model
Sequential = _keras.Sequential
initializers = _keras.initializers
layers = _keras.layers
mixed_precision = _keras.mixed_precision
models = _keras.models
optimizers = _keras.optimizers
