"""Opens SavedModels of any program.

    source = open_saved_model("/models/theirs", signature="")

Of several signatures the one is called that takes nothing but images, `serving_default` before
others; "call" calls the loaded object itself, which a reusable SavedModel, such as those of
TensorFlow Hub, allows, and is chosen where no signature fits. Outputs in lists and dicts are named
by the keys and places on the way to them: "blocks.0.maps". A SavedModel is a graph: loading it runs
no Python of its author.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from dc_tf.errors import ConfigError, DataError
from dc_tf.networks.files import digest_of
from dc_tf.networks.network import Source, listed

CALL = "call"
_DEFAULT = "serving_default"
_PARTS = ("saved_model.pb", "variables", "assets")  # of the folder that are the network
_TRAINING = "training"  # what Keras and TensorFlow Hub call the argument


@dataclasses.dataclass(frozen=True)
class _Callee:
    """What of a SavedModel is called.

    Attributes:
        spec: tf.TensorSpec of the images.
        outputs: names, sorted by the keys on the way to them: a file keeps no order of a dict.
        function: of images; {name: tensor}.
    """

    spec: tf.TensorSpec
    outputs: tuple[str, ...]
    function: Callable


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
    callee = _of_call(loaded) if name == CALL else _of_signature(loaded.signatures[name])
    return Source(
        kind="SavedModel",
        digest=digest_of([os.path.join(path, part) for part in _PARTS]),
        input_name=callee.spec.name or "images",
        input_shape=_lengths(callee.spec.shape),
        input_dtype=callee.spec.dtype,
        output_names=callee.outputs,
        main_outputs=callee.outputs,
        function=_keeping(loaded, callee.function),
        signature=name,
    )


def _choose(path, loaded, asked) -> str:
    """The signature that is called."""
    fit = [name for name in loaded.signatures if _image_spec(loaded.signatures[name]) is not None]
    can_call = _of_call(loaded) is not None
    if asked:
        if asked in fit or (asked == CALL and can_call):
            return asked
        known = asked in loaded.signatures or (asked == CALL and callable(loaded))
        what = "does not take images alone" if known else "does not exist"
        raise ConfigError(f"--signature={asked} {what}: {_described(path, loaded)}")
    if _DEFAULT in fit or len(fit) == 1:
        return _DEFAULT if _DEFAULT in fit else fit[0]
    if fit:
        fit += [CALL] if can_call else []
        raise ConfigError(
            f"{path} has several signatures; choose with --signature, of {listed(fit)}."
        )
    if can_call:
        return CALL
    raise ConfigError(
        f"no signature takes images alone: {_described(path, loaded)} Export one that does."
    )


def _described(path, loaded) -> str:
    """All signatures and ways to call the object, with what they take."""
    lines = []
    for name, signature in loaded.signatures.items():
        lines.append(f"{name} ({_arguments(signature.structured_input_signature[1])})")
    lines += [f"{CALL} ({_arguments(arguments)})" for arguments in map(_by_name, _traces(loaded))]
    return f"{path} has {listed(dict.fromkeys(lines)) or 'none'}."


def _arguments(given) -> str:
    """Arguments for a message, by their own names."""
    found = []
    for key, value in given.items():
        for path, leaf in _leaves(value, (key,)):
            text = leaf
            if isinstance(leaf, tf.TensorSpec):
                text = f"{leaf.dtype.name} {leaf.shape}"
            found.append(f"{'.'.join(path)}: {text}")
    return ", ".join(found)


def _is_image(spec) -> bool:
    return spec.dtype not in (tf.string, tf.bool) and spec.shape.rank in (None, 4)


def _image_spec(signature):
    """The spec of the only input of a signature, of four axes and numbers; None of another one."""
    positional, named = signature.structured_input_signature
    specs = [*positional, *named.values()]
    return specs[0] if len(specs) == 1 and _is_image(specs[0]) else None


def _of_signature(signature) -> _Callee:
    spec = _image_spec(signature)
    (key,) = signature.structured_input_signature[1]
    return _Callee(
        tf.TensorSpec(spec.shape, spec.dtype, key),
        tuple(_named(signature.structured_outputs)),
        lambda images: _named(signature(**{key: images})),
    )


def _traces(loaded) -> list:
    """The concrete functions with which the object can be called."""
    if not callable(loaded):
        return []
    return list(getattr(loaded.__call__, "concrete_functions", ()))


def _by_name(traced) -> dict:
    """{name: spec or constant} of the arguments of a concrete function."""
    positional, named = traced.structured_input_signature
    names = list(getattr(getattr(traced, "function_type", None), "parameters", ()))
    names += map(str, range(len(names), len(positional)))
    return {**dict(zip(names, positional, strict=False)), **named}


def _of_call(loaded) -> _Callee | None:
    """Calls the object itself in inference mode; None if it does not take images alone.

    Of several traces, float32 comes before other floats, and these before integers, whose values
    are rounded.
    """
    fit = [traced for traced in _traces(loaded) if _spec_of_call(traced) is not None]
    if not fit:
        return None
    traced = min(fit, key=lambda one: _less_wanted(_spec_of_call(one).dtype))

    def function(images):
        positional, named = tf.nest.map_structure(
            lambda one: _filled(one, images), traced.structured_input_signature
        )
        return _named(loaded(*positional, **named))

    return _Callee(_spec_of_call(traced), tuple(_named(traced.structured_outputs)), function)


def _filled(argument, images):
    """An argument of a trace that fits: images, False for the switch `training`, or a constant."""
    if not isinstance(argument, tf.TensorSpec):
        return argument
    return False if argument.dtype == tf.bool else images


def _less_wanted(dtype):
    return dtype != tf.float32, not dtype.is_floating, dtype.name


def _spec_of_call(traced):
    """The spec of the images of a trace; None if it is of training or takes other tensors too.

    Whether it is training can be a constant of the trace or a tensor.
    """
    arguments = _by_name(traced)
    switch = arguments.pop(_TRAINING, False)
    is_tensor = isinstance(switch, tf.TensorSpec) and switch.dtype == tf.bool
    if not is_tensor and switch not in (False, None):
        return None
    specs = [leaf for _, leaf in _leaves(arguments) if isinstance(leaf, tf.TypeSpec)]
    fits = len(specs) == 1 and isinstance(specs[0], tf.TensorSpec) and _is_image(specs[0])
    return specs[0] if fits else None


def _named(outputs) -> dict:
    """{name: tensor} of whatever a function returns, all different, in the order of `_leaves`."""
    found = {}
    for path, tensor in _leaves(outputs):
        name = ".".join(path) or "output"
        while name in found:  # {"a.b": x, "a": {"b": y}}
            name += "_"
        found[name] = tensor
    return found


def _leaves(value, path=()) -> Iterator[tuple[tuple[str, ...], object]]:
    """(keys and places on the way, leaf) of nested dicts, tuples and lists, without None."""
    if isinstance(value, Mapping):
        parts = sorted(value.items(), key=lambda part: str(part[0]))
    elif hasattr(value, "_asdict"):  # a named tuple
        parts = value._asdict().items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        if value is not None:
            yield path, value
        return
    for key, one in parts:
        yield from _leaves(one, (*path, str(key)))


def _keeping(loaded, function):
    """A function of (images, names) that keeps the object, which owns the weights."""

    def call(images, names):
        assert loaded is not None
        found = function(images)
        return {name: found[name] for name in names}

    return call


def _lengths(shape) -> tuple:
    return (None,) * 4 if shape.rank is None else tuple(shape.as_list())
