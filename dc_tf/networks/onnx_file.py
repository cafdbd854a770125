"""Opens ONNX files with onnxruntime, on this machine's processor or its GPU.

source = open_onnx("resnet50.onnx")
"""

import json
import os

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError, DataError
from dc_tf.networks.files import ONNX, digest_of
from dc_tf.networks.network import Source
from dc_tf.networks.preprocessing import Preprocessing, from_dict

_TYPES = {
    "tensor(float)": tf.float32,
    "tensor(float16)": tf.float16,
    "tensor(double)": tf.float64,
    "tensor(uint8)": tf.uint8,
}


def open_onnx(path: str) -> Source:
    """An ONNX file as a Source; its outputs are those of the graph.

    Args:
        path: file; data beside it, of networks of over 2 GB, belongs to it.

    Raises:
        ConfigError: onnxruntime is missing, or the network takes something else than images.
        DataError: the file cannot be read.
    """
    runtime = _runtime()
    try:
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised as well
        session = runtime.InferenceSession(
            path, options, providers=runtime.get_available_providers()
        )
    except Exception as error:  # onnxruntime's errors share no class
        raise DataError(
            f"{path} cannot be loaded ({str(error).splitlines()[0]}); copy it again with the data "
            "beside it, or export it in an older opset."
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _TYPES:
        texts = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
        raise ConfigError(f"{path} takes {texts}; a network of one batch of images is needed.")
    names = tuple(output.name for output in outputs)
    return Source(
        kind=ONNX,
        digest=digest_of([path, *_data_beside(path)]),
        input_name=inputs[0].name,
        input_shape=tuple(_lengths(inputs[0].shape)),
        input_dtype=_TYPES[inputs[0].type],
        output_names=names,
        main_outputs=names,
        function=_function(session, inputs[0]),
        stated=_stated(session),
        stated_by="the file, of dc_tf export",
        axis_names=tuple(side if isinstance(side, str) else "" for side in inputs[0].shape),
    )


def _stated(session) -> Preprocessing | None:
    """What `dc_tf export --format=onnx` has written into the file; None of another program."""
    text = session.get_modelmeta().custom_metadata_map.get("dc_tf", "null")
    try:
        found = json.loads(text)
        return from_dict(found["preprocessing"]) if found else None
    except (ValueError, KeyError, TypeError):  # a key of the same name by another program
        return None


def _runtime():
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "an ONNX file needs the package onnxruntime, which is missing; install it with 'pip "
            "install onnxruntime', or install the extra 'onnx'."
        ) from error
    return onnxruntime


def _function(session, given):
    """A function of (images, names) in a graph, which calls the session.

    Shapes of outputs are those of a run on one image: a graph of ONNX need not state them.
    """
    shapes = {}

    def run(names, images):
        return session.run(list(names), {given.name: images})

    def shapes_of(images, names):
        sides = tuple(images.shape[1:])
        if not {(name, sides) for name in names} <= shapes.keys():
            sample = np.zeros([images.shape[0] or 1, *sides], images.dtype.as_numpy_dtype)
            for name, values in zip(names, run(names, sample), strict=True):
                shapes[name, sides] = (values.dtype, values.shape[1:])
        return [shapes[name, sides] for name in names]

    def function(images, names):
        known = shapes_of(images, names)
        found = tf.numpy_function(
            lambda batch: run(names, batch), [images], [tf.as_dtype(dtype) for dtype, _ in known]
        )
        for tensor, (_, shape) in zip(found, known, strict=True):
            tensor.set_shape([images.shape[0], *shape])
        return dict(zip(names, found, strict=True))

    return function


def _lengths(shape):
    """Sides of a shape in which unknown ones are names or None."""
    return [side if isinstance(side, int) and side > 0 else None for side in shape]


def _data_beside(path) -> list[str]:
    """Files of weights beside the graph, as exporters name them."""
    beside = [f"{path}.data", f"{path}_data", f"{os.path.splitext(path)[0]}.data"]
    return [name for name in beside if os.path.isfile(name)]
