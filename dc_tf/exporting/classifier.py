"""A network with a classifier on top as a SavedModel: class probabilities of images, and names.

    network = ClassifierNetwork(trunk, head)
    export_classifier(network, ["cat", "dog"], "/models/pets", weight_decay=1e-4)

    model = tf.saved_model.load("/models/pets")             # requires only TensorFlow
    found = model(images)                                   # uint8, or floats in [0, 1]
    found["probabilities"], found["prediction"]             # (b, classes) float32, (b,) int32
    model.classify_files([open("rex.jpg", "rb").read()])    # the same of JPEG or PNG files
    model.class_names()                                     # (classes,) string

The object and its signatures are those of `saved_model`, with `logits`, `probabilities` and
`prediction` in place of layers, and the weights of the head as `weights["classifier"]`.
`classify_files`, also the signature `serving_files`, resizes the short side and cuts the centre, as
the metrics of the classifier were measured; the other functions resize whole images.
`restore_trunk` finds the network below the head, so the folder also serves as a model of features.
"""

import tensorflow as tf

import dc_tf
from dc_tf.data.input.augment import center_crop
from dc_tf.exporting.input_range import AUTO, checked_range
from dc_tf.exporting.metadata import Metadata, default_short_side
from dc_tf.exporting.saved_model import check_output, plain_copy, write_model
from dc_tf.exporting.saved_object import SavedObject
from dc_tf.exporting.weights import weights_digest
from dc_tf.nn.heads import LinearHead

HEAD = "classifier"  # name of the head among the layers with weights
_DECODED_AT_ONCE = 16  # files of a batch


class ClassifierNetwork:
    """A trunk and a linear head on the ReLU of its feature.

    Args:
        trunk: built Trunk.
        head: LinearHead.

    Attributes:
        settings: those of the trunk.
        classes: their number.
    """

    def __init__(self, trunk, head):
        self.trunk = trunk
        self.settings = trunk.settings
        self.classes = int(head.bias.shape[0])
        self._head = head

    def parts(self) -> dict:
        """{name: layer} of all layers with weights; the head comes last."""
        return {**self.trunk.parts(), HEAD: self._head}

    def __call__(self, images, training=False) -> dict:
        """Classifies.

        Args:
            images: (b, r, r, 3) float32 in [0, 1].
            training: whether to use batch statistics, and dropout of fc6.

        Returns:
            logits and probabilities, (b, classes) float32; prediction, (b,) int32.
        """
        features = self.trunk(images, training=training)[self.trunk.feature_layer]
        logits = self._head(tf.nn.relu(features))
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "prediction": tf.argmax(logits, -1, tf.int32),
        }

    def plain_copy(self) -> "ClassifierNetwork":
        """The same in float32, with weights of its own, without other workers."""
        kernel, bias = self._head.kernel, self._head.bias
        head = LinearHead(*kernel.shape)
        head.kernel.assign(kernel)
        head.bias.assign(bias)
        return ClassifierNetwork(plain_copy(self.trunk, "layer"), head)


class SavedClassifier(SavedObject):
    """The saved object of a classifier; see `SavedObject`.

    Attributes:
        classify_files: function of (b,) string, JPEG or PNG files, that returns what `__call__`
            returns.
        class_names: function that returns (classes,) string.
    """

    def __init__(self, network, class_names, weight_decay, input_range, short_side):
        super().__init__(network, weight_decay, input_range)
        resolution = network.settings["resolution"]
        names = [str(name).encode("utf-8", "surrogateescape") for name in class_names]

        def crop(encoded):
            return center_crop(encoded, resolution, short_side)

        files = tf.TensorSpec([None], tf.string, name="files")
        of_crop = tf.TensorSpec([resolution, resolution, 3], tf.float32)

        @tf.function(input_signature=[files], autograph=False)
        def classify_files(files):
            crops = tf.map_fn(
                crop, files, parallel_iterations=_DECODED_AT_ONCE, fn_output_signature=of_crop
            )
            return network(crops)

        @tf.function(input_signature=[], autograph=False)
        def list_names():
            return tf.constant(names)

        self.classify_files = classify_files
        self.class_names = list_names

    def signatures(self) -> dict:
        """As of `SavedObject`, with `serving_files` of the argument `files`."""
        return {**super().signatures(), "serving_files": self.classify_files}


def export_classifier(
    network: ClassifierNetwork,
    class_names: list[str],
    output: str,
    weight_decay: float,
    short_side=None,
    source=None,
    overwrite=False,
    input_range=AUTO,
) -> Metadata:
    """Writes a classifier as a SavedModel, atomically.

    Args:
        network: of `ClassifierNetwork.plain_copy`.
        class_names: by number, as many as the network has classes.
        output, weight_decay, short_side, source, overwrite, input_range: as of
            `saved_model.export_saved_model`.

    Raises:
        ConfigError: `output` exists, or a choice is unknown.
    """
    input_range = checked_range(input_range)
    check_output(output, overwrite)
    trunk = network.trunk
    short_side = short_side or default_short_side(trunk.settings["resolution"])
    metadata = Metadata(
        settings=dict(trunk.settings),
        folded=trunk.folded,
        short_side=short_side,
        weight_decay=weight_decay,
        outputs={
            "logits": [network.classes],
            "probabilities": [network.classes],
            "prediction": [],
        },
        versions={"dc_tf": dc_tf.__version__, "tensorflow": tf.__version__},
        weights=weights_digest(trunk),
        source=source or {},
        input_range=input_range,
        trunk=trunk.kind,
        classes=list(class_names),
    )
    exported = SavedClassifier(network, class_names, weight_decay, input_range, short_side)
    write_model(exported, metadata, output)
    return metadata
