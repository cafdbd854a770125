"""A network of another program, used as the trunks of this package are.

    network = open_network("mobilenet.keras", Wanted(layers=("global_average_pooling2d",)))
    network(images)["global_average_pooling2d"]          # (b, d), of (b, r, r, 3) in [0, 1]

Images are prepared as `preprocessing` states, batches are cut or padded to a fixed batch size, and
outputs come as float32 vectors (b, d) or maps (b, h, w, c). An output (b, tokens, d) gives the mean
of its tokens, and under the name `NAME.first` the first one, which is the class token of a ViT.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable

import tensorflow as tf

from dc_tf.errors import ConfigError, DataError
from dc_tf.networks import layout
from dc_tf.networks.preprocessing import Preprocessing

FIRST = ".first"
OUTPUTS = "outputs"
_TAKEN = ("rows", "sources")  # names of files that `embed` writes beside those of layers
LIST = "list"  # in place of the name of a layer
_SHOWN = 200  # names of a long list in messages; ResNet-50 of Keras has 176 layers
_ENDS = 12  # names that are shown of each end of a longer one
_NEAREST = 5
_CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked of a network.

    Attributes:
        layers: names of outputs, "all" of them, or `OUTPUTS`, those that the network itself
            returns; None for the only one of these. `LIST` is refused with all names.
        preprocessing: Preprocessing, or None for what the network states.
        signature: of a SavedModel: name of a signature, or "call" for calling it; "" chooses.
    """

    layers: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    signature: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """A network as its file gives it.

    Attributes:
        kind: "SavedModel", "Keras 2", "Keras 3" or "ONNX".
        digest: "sha256:..." of its files.
        input_name: for messages.
        input_shape: of its images with the batch; None for each unknown length.
        input_dtype: tf.DType.
        output_names: of all outputs that can be asked for.
        main_outputs: those that the network itself returns, in order.
        function: of (images, names), in a graph: {name: tensor} of these outputs.
        stated: Preprocessing that the network states, or None.
        stated_by: what states it, for people.
        axis_names: of its images, where the file has them; "" for each without.
        signature: the one that is called, "" where there is no choice.
    """

    kind: str
    digest: str
    input_name: str
    input_shape: tuple
    input_dtype: tf.DType
    output_names: tuple[str, ...]
    main_outputs: tuple[str, ...]
    function: Callable
    stated: Preprocessing | None = None
    stated_by: str = ""
    axis_names: tuple[str, ...] = ()
    signature: str = ""


class Network:
    """Maps (b, r, r, 3) float32 RGB in [0, 1] to a dict of features, float32.

    It has those attributes of `nn.trunk.Trunk` that evaluations read.

    Attributes:
        kind: of the file, as `Source.kind`.
        settings: {"resolution": side of the images in pixels} and what is recorded with features:
            preprocessing and signature.
        layer_names: names of the outputs that were asked for, fit to be names of files.
        map_names: those that are maps.
        feature_layer: the first of `layer_names`.
        preprocessing: Preprocessing with its sizes in pixels.
        preprocessing_from: what states it, for people.
        digest: "sha256:..." of its files.
    """

    dense_layers = ()
    product_dtype = "own"

    def __init__(self, path: str, source: Source, wanted: Wanted):
        """Chooses the outputs and traces the network.

        Raises:
            ConfigError: the outputs, the shape of the images or the preprocessing do not fit.
            DataError: the network fails on images of this shape.
        """
        self.path, self.kind, self.digest = path, source.kind, source.digest
        self._source = source
        outputs = _chosen(path, source, wanted.layers)
        stated, self.preprocessing_from = _stated(path, source, wanted)
        self._first_of, size = _layout_and_size(path, source, stated)
        self.preprocessing = stated.framed(size)
        self._batch = source.input_shape[0]
        self._traced = self._trace(outputs)
        self._keep(outputs, wanted.layers)

    @property
    def resolution(self) -> int:
        return self.preprocessing.size

    def __call__(self, images, training=False) -> dict:
        """{layer: (b, d) or (b, h, w, c) float32} of `layer_names`."""
        if training:
            raise ValueError("a network of another program is not trained here.")
        found = self._traced(images)
        return {name: self._pooled(found, name) for name in self.layer_names}

    def described(self) -> str:
        """Which outputs are taken and how images are prepared, in a sentence."""
        how = self.preprocessing
        cut = (
            f"{how.interpolation}, short side {how.short_side}, centre {how.size}"
            if how.short_side
            else f"{how.interpolation}, whole image"
        )
        values = [f"scale {how.scale:g}"]
        values += [f"{n} {list(getattr(how, n))}" for n in ("mean", "deviation") if getattr(how, n)]
        return (
            f"{self.kind} {self.path}: layer {', '.join(self.layer_names)}; images of {how.size} "
            f"pixels ({cut}), {', '.join(values)}, {how.order} ({self.preprocessing_from})"
        )

    def _keep(self, outputs, asked):
        """Names the layers, by the shapes of the outputs."""
        shapes = {name: found.shape for name, found in self._shapes().items()}
        for name, shape in shapes.items():
            if shape.rank not in (2, 3, 4) or None in shape[1:].as_list():
                raise ConfigError(
                    f"the output {name} of {self.path} has the shape {_text(shape)}; features are "
                    "vectors (b, d), tokens (b, n, d) or maps of known size (b, h, w, c): use "
                    f"another one of {listed(self._source.output_names)}."
                )
        safe = _safe_names(outputs)
        self._origins = {safe[name]: (name, False) for name in outputs}
        tokens = [name for name in outputs if shapes[name].rank == 3]
        if asked and OUTPUTS not in asked:
            self._origins |= {safe[name] + FIRST: (name, True) for name in tokens}
            if "all" not in asked:
                kept = [name for name in self._origins if _is_asked(name, asked, safe)]
                self._origins = {name: self._origins[name] for name in kept}
        self.layer_names = tuple(self._origins)
        self.map_names = tuple(safe[name] for name in outputs if shapes[name].rank == 4)
        self.feature_layer = self.layer_names[0]
        self.settings = {
            "resolution": self.resolution,
            "preprocessing": self.preprocessing.as_dict(),
            "signature": self._source.signature,
        }

    def _trace(self, outputs):
        side = self.resolution
        spec = tf.TensorSpec([None, side, side, _CHANNELS], tf.float32)

        @tf.function(input_signature=[spec], autograph=False)
        def traced(images):
            prepared = prepare(images, self.preprocessing, self._source.input_dtype, self._first_of)
            return in_batches(
                lambda some: self._source.function(some, outputs), prepared, self._batch
            )

        try:
            traced.get_concrete_function()
        except (ConfigError, DataError):
            raise
        except Exception as error:  # what a network raises on a wrong shape is its own affair
            raise DataError(
                f"{self.path} fails on images of {side} x {side} pixels ({_reason(error)}); give "
                "the side that it takes with --preprocessing=size=SIDE."
            ) from error
        return traced

    def _shapes(self):
        return self._traced.get_concrete_function().structured_outputs

    def _pooled(self, found, name):
        origin, first = self._origins[name]
        values = tf.cast(found[origin], tf.float32)
        if values.shape.rank == 3:
            return values[:, 0] if first else tf.reduce_mean(values, 1)
        if values.shape.rank == 4 and self._first_of:
            return tf.transpose(values, [0, 2, 3, 1])
        return values


def prepare(images, preprocessing, dtype, channels_first) -> tf.Tensor:
    """Images in the values, order, layout and type of a network.

    Args:
        images: (b, r, r, 3) float32 RGB in [0, 1].
        preprocessing: Preprocessing.
        dtype: tf.DType of the network's input; of integers the values are rounded.
        channels_first: whether the network takes (b, 3, r, r).
    """
    x = images * preprocessing.scale
    if preprocessing.mean:
        x -= tf.constant(preprocessing.mean)
    if preprocessing.deviation:
        x /= tf.constant(preprocessing.deviation)
    if preprocessing.order == "bgr":
        x = tf.reverse(x, [3])
    if channels_first:
        x = tf.transpose(x, [0, 3, 1, 2])
    if dtype.is_integer:
        x = tf.round(x)
    return tf.cast(x, dtype)


def in_batches(function, images, size) -> dict:
    """`function` of all images, for a network that takes batches of `size` images only.

    Args:
        function: of (size, ...) images; a dict of (size, ...) tensors.
        images: (b, ...).
        size: None for a network that takes any number.
    """
    if size is None:
        return function(images)
    count = tf.shape(images)[0]
    missing = -count % size
    padded = tf.pad(images, [[0, missing], *([[0, 0]] * (images.shape.rank - 1))])
    stacked = tf.reshape(padded, [-1, size, *images.shape[1:]])
    spec = tf.TensorSpec(stacked.shape[1:], images.dtype)
    traced = tf.function(function, autograph=False).get_concrete_function(spec)
    specs = {n: tf.TensorSpec(t.shape, t.dtype) for n, t in traced.structured_outputs.items()}
    found = tf.map_fn(function, stacked, fn_output_signature=specs, parallel_iterations=1)
    return {n: tf.reshape(t, [-1, *t.shape[2:]])[:count] for n, t in found.items()}


def _reason(error) -> str:
    """The last line of an error, without the arguments and escapes that Keras adds."""
    own, *_ = re.split("(?:Call a|A)rguments received", re.sub(r"\x1b\[\d*m", "", str(error)))
    return (own.strip().splitlines() or [type(error).__name__])[-1]


def _stated(path, source, wanted) -> tuple[Preprocessing, str]:
    """What is done to images, and what states it."""
    if wanted.preprocessing is not None:
        return wanted.preprocessing, "as asked for"
    if source.stated is not None:
        return source.stated, source.stated_by
    if source.input_dtype == tf.uint8:
        return Preprocessing(scale=255.0), "the network takes uint8"
    raise ConfigError(
        f"{path} does not state how its images are prepared; give --preprocessing, such as "
        "imagenet, clip, -1-1, 0-1, 0-255 or size=224,scale=255,mean=[124,117,104],order=bgr."
    )


def _layout_and_size(path, source, stated) -> tuple[bool, int]:
    """Whether the network takes the channels first, and the side of its images in pixels.

    Raises:
        ConfigError: its input is no batch of RGB images of this size, or of an unknown layout.
    """
    shape = source.input_shape
    if len(shape) != 4:
        raise ConfigError(
            f"{path} takes {source.input_name} of shape {_text(shape)}; expected a batch of RGB "
            "images, (b, h, w, 3) or (b, 3, h, w)."
        )
    if stated.layout == "auto" and shape[1] is None and shape[3] is None:
        size = _size(path, source, shape[2:3], stated.size)
        found = layout.by_axes(source.axis_names) or layout.by_trial(path, source, size)
        return found == layout.FIRST, size
    first = _first_by_shape(path, source, stated.layout)
    return first, _size(path, source, shape[2:4] if first else shape[1:3], stated.size)


def _first_by_shape(path, source, asked) -> bool:
    shape = source.input_shape
    fits = {"channels_last": shape[3] in (None, 3), "channels_first": shape[1] in (None, 3)}
    if asked != "auto":
        if fits[asked]:
            return asked == "channels_first"
        raise ConfigError(
            f"layout is {asked}, but {path} takes {source.input_name} of shape {_text(shape)}."
        )
    if _CHANNELS in (shape[1], shape[3]):
        return shape[3] != _CHANNELS
    raise ConfigError(
        f"{path} takes {source.input_name} of shape {_text(shape)}, which is no batch of RGB "
        "images: (b, h, w, 3) or (b, 3, h, w)."
    )


def _size(path, source, sides, asked) -> int:
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise ConfigError(
            f"{path} takes {source.input_name} of {sides[0]} x {sides[1]} pixels; only square "
            "images are supported."
        )
    if known and asked not in (0, *known):
        raise ConfigError(
            f"size is {asked}, but {path} takes {source.input_name} of {max(known)} pixels; leave "
            "size out."
        )
    if not known and not asked:
        raise ConfigError(
            f"{path} takes images of any size; give one as in --preprocessing=imagenet,size=224."
        )
    return max(known) if known else asked


def _chosen(path, source, asked) -> tuple[str, ...]:
    """The names of the outputs that are asked for, in the network's order."""
    known = source.output_names
    if not asked:
        if len(source.main_outputs) == 1:
            return source.main_outputs
        raise ConfigError(
            f"{path} has {len(source.main_outputs)} outputs; choose with --layer, of "
            f"{listed(source.main_outputs)}."
        )
    if "all" in asked:
        return known
    if OUTPUTS in asked:
        return source.main_outputs
    safe = _safe_names(known)
    names = {**{safe[name]: name for name in known}, **{name: name for name in known}}
    if LIST in asked and LIST not in names:
        raise ConfigError(f"{path} has {len(known)} outputs for --layer: {', '.join(known)}.")
    bare = [name if name in names else name.removesuffix(FIRST) for name in map(str.strip, asked)]
    unknown = [name for name in bare if name not in names]
    if unknown:
        more = f"; --layer={LIST} names them all" if len(known) > _SHOWN else ""
        raise ConfigError(
            f"{path} has no output {', '.join(unknown)}{_nearest(unknown, known)}; it has "
            f"{listed(known)}{more}."
        )
    return tuple(name for name in known if name in {names[one] for one in bare})


def _is_asked(layer, asked, safe) -> bool:
    ending = FIRST if layer.endswith(FIRST) and layer not in safe.values() else ""
    names = {name.strip() for name in asked}
    return layer in names or any(
        origin + ending in names and plain + ending == layer for origin, plain in safe.items()
    )


def _safe_names(names) -> dict[str, str]:
    """{name: a name that a file of features may have}, all different."""
    found, used = {}, set(_TAKEN)
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name.removesuffix(":0")).strip("_.-") or "output"
        while plain in used:
            plain += "_"
        used.add(plain)
        found[name] = plain
    return found


def _nearest(unknown, known) -> str:
    """The names most like those that were asked for, for a message; "" without any."""
    plain, found = {name.lower(): name for name in known}, {}
    for name in unknown:
        near = difflib.get_close_matches(name.lower(), list(plain), _NEAREST)
        found |= {plain[one]: None for one in near}
    return f" (nearest: {', '.join(found)})" if found else ""


def listed(names) -> str:
    """Names for a message; the first and the last ones of many, and how many there are."""
    names = list(names)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    first, last = ", ".join(names[:_ENDS]), ", ".join(names[-_ENDS:])
    return f"{first}, ... {last} ({len(names)} names)"


def _text(shape) -> str:
    if isinstance(shape, tf.TensorShape) and shape.rank is None:
        return "of unknown rank"
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"
