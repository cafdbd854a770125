"""Opens SavedModels of any program.

    source = open_saved_model("/models/theirs", signature="")

Of several signatures the one is called that takes nothing but images, `serving_default` before
others; "call" calls the loaded object itself, which a reusable SavedModel, such as those of
TensorFlow Hub, allows. A SavedModel is a graph: loading it runs no Python of its author.
"""

import os

import tensorflow as tf

from dc_tf.errors import ConfigError, DataError
from dc_tf.networks.files import digest_of
from dc_tf.networks.network import Source, listed

CALL = "call"
_DEFAULT = "serving_default"
_PARTS = ("saved_model.pb", "variables", "assets")  # of the folder that are the network


def open_saved_model(path: str, signature="") -> Source:
    """A SavedModel as a Source.

    Args:
        path: its folder.
        signature: name of a signature, or "call"; "" chooses.

    Raises:
        ConfigError: there is no such signature, or none that takes images alone.
        DataError: the SavedModel cannot be loaded.
    """
    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:  # a corrupt file can raise anything
        reason = str(error).strip().splitlines()
        raise DataError(
            f"the SavedModel {path} cannot be loaded "
            f"({reason[0] if reason else type(error).__name__}); copy the whole folder again, or "
            "export it with this version of TensorFlow."
        ) from error
    name = _choose(path, loaded, signature)
    if name == CALL:
        spec, outputs, function = _of_call(path, loaded)
    else:
        spec, outputs, function = _of_signature(loaded.signatures[name])
    return Source(
        kind="SavedModel",
        digest=digest_of([os.path.join(path, part) for part in _PARTS]),
        input_name=spec.name or "images",
        input_shape=_lengths(spec.shape),
        input_dtype=spec.dtype,
        output_names=outputs,
        main_outputs=outputs,
        function=_keeping(loaded, function),
        signature=name,
    )


def _choose(path, loaded, asked) -> str:
    """The signature that is called."""
    fit = [name for name in loaded.signatures if _image_spec(loaded.signatures[name]) is not None]
    known = [*loaded.signatures, *([CALL] if callable(loaded) else [])]
    if asked:
        if asked in fit or (asked == CALL and asked in known):
            return asked
        what = "takes more than images" if asked in known else "does not exist"
        raise ConfigError(f"--signature={asked} {what}: {_described(path, loaded)}")
    if _DEFAULT in fit or len(fit) == 1:
        return _DEFAULT if _DEFAULT in fit else fit[0]
    if callable(loaded) and not fit:
        return CALL
    if fit:
        raise ConfigError(
            f"{path} has several signatures; choose with --signature, of {listed(fit)}."
        )
    raise ConfigError(
        f"no signature takes images alone: {_described(path, loaded)} Export one that does."
    )


def _described(path, loaded) -> str:
    lines = []
    for name, signature in loaded.signatures.items():
        inputs = signature.structured_input_signature[1].items()
        texts = [f"{key}: {spec.dtype.name} {spec.shape}" for key, spec in inputs]
        lines.append(f"{name} ({', '.join(texts)})")
    lines += [CALL] if callable(loaded) else []
    return f"{path} has {listed(lines) or 'none'}."


def _image_spec(signature):
    """The spec of the only input of a signature, of four axes and numbers; None of another one."""
    positional, named = signature.structured_input_signature
    specs = [*positional, *named.values()]
    if len(specs) != 1 or specs[0].dtype == tf.string or specs[0].shape.rank not in (None, 4):
        return None
    return specs[0]


def _of_signature(signature):
    """The spec of the images, the names of the outputs, and a function of images."""
    spec = _image_spec(signature)
    (key,) = signature.structured_input_signature[1]

    def function(images):
        return _named(signature(**{key: images}))

    outputs = tuple(sorted(_named(signature.structured_outputs)))  # a file has no order
    return tf.TensorSpec(spec.shape, spec.dtype, key), outputs, function


def _of_call(path, loaded):
    """The same of the object itself, called in inference mode."""
    found = []
    for traced in getattr(loaded.__call__, "concrete_functions", ()):
        for spec in tf.nest.flatten(traced.structured_input_signature):
            if isinstance(spec, tf.TensorSpec) and spec.shape.rank == 4:
                found.append((spec, tuple(_named(traced.structured_outputs))))
    if not found:
        raise ConfigError(f"{path} can be called, but takes no images; name a --signature.")
    # Of several, floats before integers: their values are stated.
    spec, outputs = min(found, key=lambda one: (not one[0].dtype.is_floating, one[0].dtype.name))

    def function(images):
        try:
            return _named(loaded(images, training=False))
        except (TypeError, ValueError):  # it has no such argument
            return _named(loaded(images))

    return spec, outputs, function


def _named(outputs) -> dict:
    """{name: tensor} of whatever a function returns."""
    if isinstance(outputs, dict):
        return {
            f"{key}.{inner}" if inner else str(key): tensor
            for key, value in outputs.items()
            for inner, tensor in _inner(value)
        }
    return {inner or "output": tensor for inner, tensor in _inner(outputs)}


def _inner(value):
    """(name, tensor) of a value of an output: itself, or the elements of a list or dict."""
    if isinstance(value, dict):
        return [(str(key), tensor) for key, one in value.items() for _, tensor in _inner(one)]
    if isinstance(value, list | tuple):
        return [(str(place), tensor) for place, tensor in enumerate(value)]
    return [("", value)]


def _keeping(loaded, function):
    """A function of (images, names) that keeps the object, which owns the weights."""

    def call(images, names):
        assert loaded is not None
        found = function(images)
        return {name: found[name] for name in names}

    return call


def _lengths(shape) -> tuple:
    return (None,) * 4 if shape.rank is None else tuple(shape.as_list())
