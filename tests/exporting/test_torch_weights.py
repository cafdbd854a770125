"""Names and layouts of the released checkpoints, on synthetic arrays; does not need PyTorch."""

import numpy as np
import tensorflow as tf

from dc_tf.errors import DataError
from dc_tf.exporting.torch_weights import from_torch, to_torch
from dc_tf.exporting.weights import assign_weights, named_weights
from dc_tf.nn.vgg16 import CONV_LAYERS, LAYERS, VGG16

# As docs/reference.md, section 6, lists them.
CONVS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
# Maps of 2 x 2 enter fc6, so that its permutation matters.
WIDTH, RESOLUTION, SIDE, FC = 1 / 16, 64, 2, 12


def checkpoint(inputs=2, prefix="", width=WIDTH, fc=FC, seed=0):
    """{key: float32 array} with the keys of the released trunk."""
    random = np.random.default_rng(seed)
    shapes = {}
    for place, outputs in zip(CONVS, CHANNELS, strict=True):
        outputs = int(outputs * width)
        shapes[f"features.{place}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{place}.bias"] = (outputs,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{place + 1}.{name}"] = (outputs,)
        inputs = outputs
    shapes["classifier.0.weight"] = (fc, inputs * SIDE * SIDE)
    shapes["classifier.3.weight"] = (fc, fc)
    shapes["classifier.0.bias"] = shapes["classifier.3.bias"] = (fc,)
    return {prefix + key: random.random(shape, np.float32) for key, shape in shapes.items()}


def fixed_filters():
    """The Sobel stage of a released checkpoint."""
    x = np.float32([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    return {
        "sobel.0.weight": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "sobel.0.bias": np.zeros(1, np.float32),
        "sobel.1.weight": np.stack([x, x.T])[:, None],
        "sobel.1.bias": np.zeros(2, np.float32),
    }


class TorchWeightsTest(tf.test.TestCase):
    def refused(self, state, *texts, resolution=RESOLUTION):
        with self.assertRaises(DataError) as caught:
            from_torch(state, resolution)
        for text in texts:
            self.assertIn(text, str(caught.exception))

    def test_convolutions_and_batch_norm_go_to_their_layer(self):
        state = checkpoint()
        weights = from_torch(state, RESOLUTION).weights
        self.assertEqual(tuple(weights), LAYERS)
        for layer, place in zip(CONV_LAYERS, CONVS, strict=True):
            found, theirs = weights[layer], state[f"features.{place}.weight"]
            self.assertAllEqual(found["kernel"][2, 0, 1], theirs[:, 1, 2, 0])
            self.assertAllEqual(np.einsum("hwio->oihw", found["kernel"]), theirs)
            self.assertAllEqual(found["bias"], state[f"features.{place}.bias"])
            norm = f"features.{place + 1}."
            self.assertAllEqual(found["gamma"], state[norm + "weight"])
            self.assertAllEqual(found["beta"], state[norm + "bias"])
            self.assertAllEqual(found["moving_mean"], state[norm + "running_mean"])
            self.assertAllEqual(found["moving_variance"], state[norm + "running_var"])

    def test_the_inputs_of_fc6_change_from_channels_first_to_channels_last(self):
        state = checkpoint()
        weights = from_torch(state, RESOLUTION).weights
        theirs, ours = state["classifier.0.weight"], weights["fc6"]["kernel"]
        channels = int(512 * WIDTH)
        for y in range(SIDE):
            for x in range(SIDE):
                for c in range(channels):
                    row, column = (y * SIDE + x) * channels + c, (c * SIDE + y) * SIDE + x
                    self.assertAllEqual(ours[row], theirs[:, column])
        self.assertAllEqual(weights["fc7"]["kernel"], state["classifier.3.weight"].T)
        self.assertAllEqual(weights["fc6"]["bias"], state["classifier.0.bias"])
        self.assertAllEqual(weights["fc7"]["bias"], state["classifier.3.bias"])

    def test_a_trunk_of_the_settings_that_were_found_takes_the_weights(self):
        for inputs in (2, 3):
            network = from_torch(checkpoint(inputs), RESOLUTION)
            expected = dict(width=WIDTH, resolution=RESOLUTION, fc=FC, sobel=inputs == 2)
            self.assertEqual(network.settings, expected)
            trunk = VGG16(**network.settings).built_at_resolution()
            assign_weights(network.weights, trunk)
            for layer, weights in named_weights(trunk).items():
                for name, variable in weights.items():
                    self.assertAllEqual(variable, network.weights[layer][name])

    def test_weights_go_back_to_the_same_checkpoint(self):
        state = checkpoint()
        network = from_torch(state, RESOLUTION)
        trunk = VGG16(**network.settings).built_at_resolution()
        assign_weights(network.weights, trunk)
        back = to_torch(trunk)
        self.assertContainsSubset(state, back)
        for key, array in back.items():
            if key.endswith("num_batches_tracked"):
                self.assertEqual((array.dtype, array.shape), (np.int64, ()))
            else:
                self.assertAllEqual(array, state[key], key)
        self.assertEqual(from_torch(back, RESOLUTION).ignored, ())

    def test_prefixes_of_wrappers_do_not_matter(self):
        plain = from_torch(checkpoint(), RESOLUTION).weights
        for prefix in ("module.", "body.", "module.body.", "body.module."):
            found = from_torch(checkpoint(prefix=prefix), RESOLUTION).weights
            tf.nest.map_structure(self.assertAllEqual, found, plain)

    def test_of_what_is_left_over_only_heads_are_reported(self):
        state = checkpoint() | fixed_filters()
        state["features.1.num_batches_tracked"] = np.int64(7)
        state["pred_layer.weight"] = np.zeros((4, FC), np.float32)
        network = from_torch({f"module.{key}": array for key, array in state.items()}, RESOLUTION)
        self.assertEqual(network.ignored, ("pred_layer.weight",))

    def test_every_key_that_is_missing_is_named(self):
        whole = checkpoint()
        for key in whole:
            self.refused({k: v for k, v in whole.items() if k != key}, f"no {key!r}")

    def test_other_networks_are_refused_by_their_first_difference(self):
        residual = {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
        self.refused(residual, "no 'features.0.weight'", "(64, 2, 3, 3)", "'conv1.weight'")
        self.refused({}, "no 'features.0.weight'")
        plain_vgg = {k: v for k, v in checkpoint(3).items() if "running" not in k}
        self.refused(plain_vgg, "no 'features.1.running_mean' of shape (4,)")
        for name in ("features.43.weight", "classifier.6.weight"):  # VGG-19, torchvision
            state = checkpoint() | {name: np.zeros((3, 4), np.float32)}
            self.refused(state, repr(name), "(3, 4)")

    def test_a_shape_that_does_not_fit_is_named_with_the_one_that_would(self):
        wide = checkpoint(width=1 / 8)
        state = checkpoint() | {"features.20.weight": wide["features.20.weight"]}
        self.refused(state, "'features.20.weight'", "(32, 32, 3, 3)", "(16, 16, 3, 3)")
        self.refused(checkpoint(1), "'features.0.weight'", "(4, 1, 3, 3)", "(4, 3, 3, 3)")
        alexnet = checkpoint() | {"features.0.weight": np.zeros((4, 2, 11, 11), np.float32)}
        self.refused(alexnet, "'features.0.weight'", "(4, 2, 11, 11)", "(4, 2, 3, 3)")
        for shape in [(), (0,), (4,), (0, 2, 3, 3)]:
            state = checkpoint() | {"features.0.weight": np.zeros(shape, np.float32)}
            self.refused(state, "'features.0.weight'", str(shape))

    def test_a_network_for_another_resolution_is_detected_by_fc6(self):
        self.refused(
            checkpoint(), "'classifier.0.weight'", "(12, 128)", "(12, 1568)", resolution=224
        )

    def test_corrupt_numbers_are_refused(self):
        for value in (np.nan, np.inf):
            state = checkpoint()
            state["features.38.running_var"][3] = value
            self.refused(state, "'features.38.running_var'", "not finite")
        state = checkpoint()
        state["classifier.3.bias"] = np.arange(FC)
        self.refused(state, "'classifier.3.bias'", "int64")

    def test_half_and_double_precision_become_single(self):
        for dtype in (np.float16, np.float64):
            state = {key: array.astype(dtype) for key, array in checkpoint().items()}
            for weights in from_torch(state, RESOLUTION).weights.values():
                for array in weights.values():
                    self.assertEqual(array.dtype, np.float32)

    def test_a_weight_that_is_there_twice_is_refused(self):
        state = checkpoint() | checkpoint(prefix="module.")
        self.refused(state, "'features.0.weight' twice", "'module.features.0.weight'")

    def test_other_fixed_filters_are_refused(self):
        luma = np.float32([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
        sobel = fixed_filters()["sobel.1.weight"]
        for key, array in {
            "sobel.0.weight": luma,
            "sobel.1.weight": sobel[::-1],
            "sobel.1.bias": np.ones(2, np.float32),
            "sobel.2.weight": np.zeros((2, 2, 3, 3), np.float32),
        }.items():
            self.refused(checkpoint() | fixed_filters() | {key: array}, repr(key))


if __name__ == "__main__":
    tf.test.main()
