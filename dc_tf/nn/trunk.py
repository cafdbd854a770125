"""What the networks that are trained have in common; `trunks` makes them by name.

class MyNet(Trunk):
    kind = "mynet"
    ...
trunk = MyNet(width=0.5, resolution=64).built_at_resolution()
endpoints = trunk(images)      # {name: (b, h, w, c) or (b, d)}, in the order of trunk.layer_names
"""

from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm


class Conv(NamedTuple):
    """Counts of a convolution with square kernel and its batch norm.

    Attributes:
        kernel: side of the kernel.
        inputs, outputs: channels.
        side: of its output map, in pixels.
        bias: whether the convolution has one.
    """

    kernel: int
    inputs: int
    outputs: int
    side: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Trainable values, with batch norm's scale and shift."""
        return self.kernel**2 * self.inputs * self.outputs + (2 + self.bias) * self.outputs


class Counts(NamedTuple):
    """Sizes of a network that follow from its settings.

    Attributes:
        convs: all convolutions, each followed by batch norm.
        dense: (inputs, outputs) of fully connected layers.
        kept: values per image that the backward pass needs; a lower bound.
    """

    convs: tuple[Conv, ...]
    dense: tuple[tuple[int, int], ...]
    kept: int


class Trunk(keras.Model):
    """Maps (b, r, r, 3) float32 RGB in [0, 1] to a dict of all layers' features, float32.

    A subclass implements `normalized_maps`, `convolve`, `call` where it has layers behind the last
    map, `stride`, `parts`, `counts`, `plain` and `torch_parts`. It has a layer `normalize`.

    Attributes:
        kind: name in `trunks.TRUNKS`.
        title: name for people.
        setting_names: the settings of `experiment.Model` that the constructor takes.
        settings: their values.
        layer_names: names of the endpoints, from the input to the output.
        map_names: those that are maps (b, h, w, c), after ReLU; the others are vectors.
        feature_layer: the endpoint that is clustered. Heads take its ReLU.
        feature_dim: length of its vectors.
        dropout_dim: length of the vectors that training drops values of; 0 without dropout.
        dense_layers: names of the fully connected layers.
        copies_layer: endpoint in which copies of an image are nearest to each other.
        torch_model: name of the model of its shape in torchvision and timm; "" without.
        dilated: whether the last maps are kept at twice the size, for detection.
        stem_conv, stem_channels: name in `parts` of the first convolution, and its channels at
            width 1.
        folded: whether the first convolution includes Sobel (`dc_tf.exporting.fold_sobel`).
        product_dtype: type of the products, "float32", "bfloat16" or "float16".
    """

    kind: str
    title: str
    setting_names: tuple[str, ...]
    layer_names: tuple[str, ...]
    map_names: tuple[str, ...]
    feature_layer: str
    dense_layers: tuple[str, ...] = ()
    torch_model = ""
    dropout_dim = 0
    copies_layer: str
    dilated = False
    stem_conv = "conv1"
    stem_channels = 64

    def __init__(self, settings, folded=False, compute_dtype="float32"):
        super().__init__(name=self.kind)
        if folded and not settings["sobel"]:
            raise ValueError("folded needs sobel.")
        self.settings = settings
        self.folded = folded
        self.product_dtype = compute_dtype
        self.policy = "float32" if compute_dtype == "float32" else f"mixed_{compute_dtype}"

    # What a subclass implements.

    def normalized_maps(self, x, training) -> dict:
        """{name: map after ReLU} of images behind `normalize`, in the type of the products."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Distance of neighbours in the last map, in pixels of the input."""
        raise NotImplementedError

    def convolve(self, images, training=False) -> tuple[dict, tf.Tensor]:
        """Runs the convolutions alone.

        Returns:
            {name: map after ReLU} of `map_names`, and the (b, d) vectors behind the last one, which
            enter the fully connected layers if there are any. In the type of the products.
        """
        raise NotImplementedError

    def parts(self) -> dict:
        """{name: layer} of all layers with weights, from the input to the output.

        A layer is Dense, or has a convolution `conv` and a BatchNorm `norm`.
        """
        raise NotImplementedError

    @classmethod
    def counts(cls, **settings) -> Counts:
        """Sizes of the network with these `setting_names`; nothing is built."""
        raise NotImplementedError

    def plain(self, x, build) -> tf.Tensor:
        """The network of built-in Keras layers.

        Args:
            x: KerasTensor, output of the input stage without the padding of the first convolution.
            build: `exporting.keras_model.Builder`.
        """
        raise NotImplementedError

    @classmethod
    def torch_parts(cls) -> dict:
        """{name in `parts`: (key of the convolution, key of its batch norm)} in PyTorch.

        Of fully connected layers, the second is None. In the order of `counts`.
        """
        raise NotImplementedError

    # What all share.

    def call(self, images, training=False, dropout_mask=None) -> dict:
        """Features of every layer.

        Args:
            images: (b, r, r, 3) float32 in [0, 1].
            training: whether to use batch statistics and dropout instead of running statistics.
            dropout_mask: (b, dropout_dim) factors in training; by default random. None without
                dropout.
        """
        endpoints, vectors = self.convolve(images, training)
        return float32({**endpoints, self.feature_layer: vectors})

    def convolutions(self, images) -> dict:
        """The maps of images of any size, (b, h, w, 3), in inference mode.

        In a `tf.function`, unused maps are not computed.
        """
        return float32(self.maps(images, training=False))

    def maps(self, images, training) -> dict:
        """{name: map after ReLU}, in the type of the products."""
        return self.normalized_maps(self.normalize(images), training)

    def norms(self) -> Iterator[BatchNorm]:
        """All batch norms."""
        return (part.norm for part in self.parts().values() if hasattr(part, "norm"))

    def share_statistics(self, comm) -> None:
        """Shares batch statistics in training over all workers of `comm`.

        By default they are those of this worker's images. Traced functions do not change.
        """
        for norm in self.norms():
            norm.all_sum = comm.all_sum if comm.size > 1 else None

    def built_at_resolution(self) -> "Trunk":
        """Creates all weights and returns self."""
        resolution = self.settings["resolution"]
        self(tf.zeros([1, resolution, resolution, 3]))
        return self

    def fresh(self, compute_dtype="float32", seed=0, folded=None, **changes) -> "Trunk":
        """A built network of the same kind and settings, but for `changes`, with new weights.

        Args:
            compute_dtype, seed: of the new one.
            folded: whether its first convolution includes Sobel; None as here.
            changes: settings that differ.
        """
        return type(self)(
            **{**self.settings, **changes},
            folded=self.folded if folded is None else folded,
            compute_dtype=compute_dtype,
            seed=seed,
        ).built_at_resolution()


def float32(endpoints: dict) -> dict:
    """The same features in float32."""
    return {name: tf.cast(t, tf.float32) for name, t in endpoints.items()}


def scaled(channels: int, width: float) -> int:
    """Channels of a layer in a network `width` times as wide."""
    return max(1, round(channels * width))


def seeds_of(seed: int) -> Iterator[int]:
    """Seeds of the initial weights of each layer, of a network's own."""
    return iter(range(seed * 1000, seed * 1000 + 1000))
