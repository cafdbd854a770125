"""Small networks of other programs, as files, with a NumPy form of what they compute."""

import numpy as np
import tensorflow as tf

from dc_tf import keras
from dc_tf.networks import files

SIDE = 16


def saved_model(path, inputs=None, signatures=None, batch=None):
    """A SavedModel of the means of colours, (b, 3), and their maxima, (b, 3).

    Args:
        path: folder.
        inputs: dtype of the images.
        signatures: {name: tuple of the outputs "mean" and "most" that it returns}; None: one,
            `serving_default`, of the mean.
        batch: size of all batches; None: any.
    """
    module, dtype = tf.Module(), inputs or tf.float32
    module.scale = tf.Variable(2.0)
    spec = tf.TensorSpec([batch, SIDE, SIDE, 3], dtype, "images")

    def function_of(names):
        @tf.function(input_signature=[spec], autograph=False)
        def function(images):
            x = module.scale * tf.cast(images, tf.float32)
            found = {"mean": tf.reduce_mean(x, [1, 2]), "most": tf.reduce_max(x, [1, 2])}
            found["map"] = x
            found["tokens"] = tf.reshape(x, [-1 if batch is None else batch, SIDE * SIDE, 3])
            return {name: found[name] for name in names}

        return function

    wanted = signatures or {"serving_default": ("mean",)}
    functions = {name: function_of(outputs) for name, outputs in wanted.items()}
    module.__call__ = next(iter(functions.values()))
    tf.saved_model.save(module, path, signatures=functions)
    return path


def callable_network(path, function, *calls):
    """A SavedModel without signatures, of a function that can be called; returns the path.

    Args:
        path: folder.
        function: of Python, whatever its arguments and outputs.
        calls: (positional, named) arguments of each call that is traced, specs and constants.
    """
    module = tf.Module()
    module.__call__ = tf.function(function, autograph=False)
    for positional, named in calls:
        module.__call__.get_concrete_function(*positional, **named)
    tf.saved_model.save(module, path)
    return path


def chain_of_layers(path, count):
    """A Keras file of a chain of so many layers "layer_0", ... between "conv" and "avg_pool"."""
    layers = keras.layers
    x = images = layers.Input([SIDE, SIDE, 3], name="images")
    x = layers.Conv2D(2, 3, name="conv")(x)
    for number in range(count):
        x = layers.ReLU(name=f"layer_{number}")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    keras.Model(images, x).save(path)
    return path


def keras_model(modern=False, lambdas=False, name="theirs"):
    """A model of a convolution, its mean over pixels, and classes, of Keras 2 or, if modern, 3."""
    module = keras.keras_3() if modern else keras
    layers = module.layers
    images = layers.Input([SIDE, SIDE, 3], name="input_1")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(images)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if lambdas:
        x = layers.Lambda(lambda y: y * 2, name="code")(x)
    return module.Model(images, layers.Dense(5, name="classes")(x), name=name)


def write_onnx(path, channels_first=False, batch=None):
    """An ONNX file of a convolution by tf2onnx; returns a function that computes the same."""
    import tf2onnx

    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32)
    shape = [batch, 3, SIDE, SIDE] if channels_first else [batch, SIDE, SIDE, 3]
    spec = [tf.TensorSpec(shape, tf.float32, "pixels")]

    @tf.function(input_signature=spec, autograph=False)
    def function(pixels):
        x = tf.transpose(pixels, [0, 2, 3, 1]) if channels_first else pixels
        maps = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "VALID"))
        returned = tf.transpose(maps, [0, 3, 1, 2]) if channels_first else maps
        return {"vector": tf.reduce_mean(maps, [1, 2]), "maps": returned}

    tf2onnx.convert.from_function(function, spec, opset=17, output_path=path)

    def expected(images):
        maps = tf.nn.relu(tf.nn.conv2d(images, kernel, 2, "VALID")).numpy()
        return {"vector": maps.mean((1, 2)), "maps": maps}

    return expected


def write_onnx_graph(path, axes, kind, channels_first):
    """An ONNX file whose input has names, or None, in place of all lengths.

    Args:
        path: file.
        axes: (4,) names.
        kind: "Conv" doubles each pixel; "ReduceMean" is the mean over pixels.
        channels_first: whether it takes and gives (b, 3, h, w).
    """
    import onnx
    from onnx import helper

    if kind == "Conv":
        kernel = 2 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        before = helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2])
        after = helper.make_node("Transpose", ["y"], ["maps"], perm=[0, 2, 3, 1])
        ends = ["pixels", "maps"] if channels_first else ["x", "y"]
        conv = helper.make_node("Conv", [ends[0], "kernel"], ends[1:])
        nodes = [conv] if channels_first else [before, conv, after]
        constants = [onnx.numpy_helper.from_array(kernel, "kernel")]
        rank = 4
    else:
        sides = [2, 3] if channels_first else [1, 2]
        nodes = [helper.make_node("ReduceMean", ["pixels"], ["maps"], axes=sides, keepdims=0)]
        constants, rank = [], 2
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, [None] * rank)],
        constants,
    )
    _save_onnx(graph, path)


def _save_onnx(graph, path):
    import onnx
    from onnx import helper

    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def write_reshaping(path, kind, shapes, target):
    """A network that gives the sum of its inputs, which are called input_0, ..., in another shape.

    Args:
        path: of its file or folder, without the ending.
        kind: of `networks.files`.
        shapes: of the inputs, without the batch; of a SavedModel only one. None: any length.
        target: shape of `output`, without the batch.

    Returns:
        the path, with the ending of its kind.
    """
    names = [f"input_{number}" for number in range(len(shapes))]
    if kind == files.SAVED_MODEL:
        spec = tf.TensorSpec([None, *shapes[0]], tf.float32, names[0])
        function = tf.function(
            lambda input_0: {"output": tf.reshape(input_0, [-1, *target])}, input_signature=[spec]
        )
        tf.saved_model.save(tf.Module(), path, signatures={"serve": function})
        return path
    if kind == files.ONNX:
        _save_onnx_reshaping(f"{path}.onnx", dict(zip(names, shapes, strict=True)), target)
        return f"{path}.onnx"
    module = keras.keras_3() if kind == files.KERAS_3 else keras
    layers = module.layers
    inputs = [layers.Input(shape, name=name) for name, shape in zip(names, shapes, strict=True)]
    total = layers.Add()(inputs) if len(inputs) > 1 else inputs[0]
    module.Model(inputs, layers.Reshape(target, name="output")(total)).save(f"{path}.keras")
    return f"{path}.keras"


def _save_onnx_reshaping(path, shapes, target):
    import onnx
    from onnx import helper

    def info(name, sides):
        named = [side or f"side_{axis}" for axis, side in enumerate(sides)]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", *named])

    graph = helper.make_graph(
        [
            helper.make_node("Sum", list(shapes), ["total"]),
            helper.make_node("Reshape", ["total", "target"], ["output"]),
        ],
        "graph",
        [info(name, shape) for name, shape in shapes.items()],
        [info("output", target)],
        [onnx.numpy_helper.from_array(np.array([-1, *target]), "target")],
    )
    _save_onnx(graph, path)
