"""The object in a SavedModel: functions of images for every way of loading it, and the weights.

exported = SavedObject(model, weight_decay=1e-5, input_range="auto")
tf.saved_model.save(exported, path, signatures=exported.signatures())
"""

import tensorflow as tf

from dc_tf.exporting.input_range import of_typed
from dc_tf.exporting.resize import resize
from dc_tf.exporting.weights import flat_weights, named_weights, trainable_weights

_OF_TRAINING = (tf.uint8, tf.float32)
DTYPES = (*_OF_TRAINING, tf.float16, tf.bfloat16, tf.float64, tf.int32, tf.int64)
# {signature: (dtype of images, whether at the network's own size)}
_SIGNATURES = {
    "serving_default": (tf.uint8, False),
    "serving_float": (tf.float32, False),
    "serving_native": (tf.uint8, True),
    "serving_native_float": (tf.float32, True),
}


class SavedObject(tf.train.Checkpoint):
    """The saved object; variables and functions only, so loading requires no Keras.

    Attributes:
        serve, serving_default: `__call__` under the names at which Keras 3's TFSMLayer looks for
            functions, before it looks for signatures, which take one dtype only.
        train: the same in training mode, for its `call_training_endpoint`.
        weights: {layer: {name: variable}}.
        variables, trainable_variables: lists, from the input to the output.
        regularization_losses: one function per trainable variable.
    """

    def __init__(self, model, weight_decay: float, input_range: str):
        super().__init__()
        weights = named_weights(model)
        self.weights = weights
        self.variables = flat_weights(weights)
        self.trainable_variables = trainable_weights(weights)
        self.regularization_losses = [
            _decay(variable, weight_decay) for variable in self.trainable_variables
        ]
        self._resolution = model.settings["resolution"]
        forward = {training: _forward(model, training) for training in (False, True)}

        @tf.function(autograph=False)
        def call(images, training=False):
            return forward[training](of_typed(images, input_range))

        @tf.function(autograph=False)
        def train(images):
            return forward[True](of_typed(images, input_range))

        for dtype in DTYPES:
            call.get_concrete_function(_images(dtype), training=False)
        for dtype in _OF_TRAINING:
            call.get_concrete_function(_images(dtype), training=True)
            train.get_concrete_function(_images(dtype))
        self.__call__ = self.serve = self.serving_default = call
        self.train = train
        self._features = lambda images: model(
            resize(of_typed(images, input_range), self._resolution), training=False
        )

    def signatures(self) -> dict:
        """{name: concrete function of `images`}."""
        return {name: self._signature(*of) for name, of in _SIGNATURES.items()}

    def _signature(self, dtype, native):
        function = tf.function(self._features, autograph=False)
        return function.get_concrete_function(_images(dtype, self._resolution if native else None))


def _forward(model, training):
    """The network on (b, h, w, 3) float32 in [0, 1]; traced once for all dtypes."""

    @tf.function(input_signature=[_images(tf.float32)], autograph=False)
    def forward(images):
        return model(resize(images, model.settings["resolution"]), training=training)

    return forward


def _images(dtype, size=None):
    return tf.TensorSpec([None, size, size, 3], dtype, name="images")


def _decay(variable, weight_decay):
    """The loss whose gradient is `weight_decay * variable`."""

    @tf.function(input_signature=[], autograph=False)
    def loss():
        return weight_decay * tf.nn.l2_loss(variable)

    return loss
