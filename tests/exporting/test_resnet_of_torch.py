"""A ResNet with PyTorch's weights has PyTorch's features, and its weights go back unchanged.

The reference, `torch_resnet.py`, shares nothing with dc_tf.
"""

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.torch_weights import from_torch, to_torch
from dc_tf.exporting.weights import STATISTICS, assign_weights, named_weights
from dc_tf.nn.trunks import make_trunk

torch = pytest.importorskip("torch", reason="pip install -c constraints.txt torch")
from torch_resnet import RESNET18, RESNET50, trained_like  # noqa: E402
from torch_vgg import _sobel as torch_sobel  # noqa: E402

pytestmark = pytest.mark.numeric

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 3), np.uint8)


def for_torch(pixels=PIXELS):
    return torch.tensor(pixels).permute(0, 3, 1, 2) / 255


def imported(network, resolution=48):
    found = from_torch({k: t.numpy() for k, t in network.state_dict().items()}, resolution)
    trunk = make_trunk(found.kind, **found.settings).built_at_resolution()
    assign_weights(found.weights, trunk)
    return trunk


def arrays(network):
    return {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}


def weights_of(shape):
    """A loss by image, since batch norm fixes sums and sums of squares over the batch."""
    return np.random.default_rng(3).normal(size=tuple(shape)).astype(np.float32)


def one_pass(cluster, network):
    """Running statistics and gradients of a pass in training mode."""
    trunk = make_trunk(network.kind, **network.settings).built_at_resolution()
    assign_weights(network.weights, trunk)
    with tf.GradientTape() as tape:
        pool = trunk(PIXELS / np.float32(255), training=True)["pool"]
        loss = tf.reduce_sum(pool * weights_of(pool.shape))
    weights = named_weights(trunk)
    learned = {
        layer: {name: v for name, v in of.items() if name not in STATISTICS}
        for layer, of in weights.items()
    }
    gradients = tape.gradient(loss, learned)
    statistics = {k: {n: of[n].numpy() for n in STATISTICS} for k, of in weights.items()}
    gradients = {k: {n: g.numpy() for n, g in of.items()} for k, of in gradients.items()}
    return {"statistics": statistics, "gradients": gradients}


def ours(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


CASES = [
    ("resnet18", RESNET18, dict(stem="imagenet", width=1 / 8)),
    ("resnet18", RESNET18, dict(stem="small", width=1 / 8)),
    ("resnet50", RESNET50, dict(stem="imagenet", width=1 / 16)),
    ("resnet50", RESNET50, dict(stem="small", width=1 / 16)),
]


class ResNetOfTorchTest(tf.test.TestCase):
    def assert_near(self, found, expected, layer):
        """To 1e-4 of the layer's largest value."""
        self.assertEqual(found.shape, expected.shape)
        self.assertLess(np.abs(found - expected).max(), 1e-4 * np.abs(expected).max(), layer)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_features_of_every_layer_are_those_of_pytorch(self):
        for kind, depths, settings in CASES:
            for sobel in (None, torch_sobel()):
                network = trained_like(for_torch(), depths, sobel=sobel, **settings)
                trunk = imported(network)
                self.assertEqual(trunk.kind, kind)
                self.assertEqual(trunk.settings["stem"], settings["stem"])
                self.assertEqual(trunk.settings["sobel"], sobel is not None)
                with torch.no_grad():
                    expected = network.layers(for_torch())
                found = trunk(PIXELS / np.float32(255))
                self.assertEqual(list(found), list(expected))
                self.assertEqual(tuple(found), trunk.layer_names)
                for layer, theirs in expected.items():
                    theirs = ours(theirs)
                    self.assert_near(found[layer], theirs, layer)
                    self.assertGreater(np.std(theirs), 0.05, layer)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_features_at_an_odd_resolution_too(self):
        pixels = PIXELS[:, :45, :45]
        for _, depths, settings in CASES[:2]:
            network = trained_like(for_torch(pixels), depths, sobel=torch_sobel(), **settings)
            with torch.no_grad():
                expected = network.layers(for_torch(pixels))
            found = imported(network, 45)(pixels / np.float32(255))
            for layer, theirs in expected.items():
                self.assert_near(found[layer], ours(theirs), layer)

    @pytest.mark.slow
    def test_a_training_pass_has_pytorchs_statistics_and_gradients(self):
        for _, depths, settings in CASES[1:3]:
            network = trained_like(0.8 * for_torch(), depths, offset=2.0, **settings)
            start = from_torch(arrays(network), 48)
            (found,) = workers.on_cluster(1, one_pass, start)
            network.train()
            # Beside TensorFlow, oneDNN's gradient of a strided 1x1 convolution crashes here too.
            with torch.backends.mkldnn.flags(enabled=False):
                pool = network.layers(for_torch())["pool"]
                (pool * torch.tensor(weights_of(pool.shape))).sum().backward()
            slopes = {k: p.grad.numpy() for k, p in network.named_parameters()}
            after = from_torch(arrays(network), 48).weights
            slopes = from_torch(arrays(network) | slopes, 48).weights
            largest = max(np.linalg.norm(of["kernel"]) for of in slopes.values())
            self.assertGreater(largest, 0.1)
            for layer, weights in after.items():
                for name in STATISTICS:
                    theirs, before = weights[name], start.weights[layer][name]
                    self.assertNotAllClose(theirs, before, atol=1e-5)
                    ours = found["statistics"][layer][name]
                    self.assertAllClose(ours, theirs, atol=1e-4, rtol=1e-4, msg=layer)
                for name, slope in found["gradients"][layer].items():
                    apart = np.linalg.norm(slope - slopes[layer][name])
                    # Offsets before a batch norm have gradients of rounding only.
                    bound = 1e-2 * np.linalg.norm(slopes[layer][name]) + 1e-4 * largest
                    self.assertLess(apart, bound, f"{layer}/{name}")

    @pytest.mark.merge
    @pytest.mark.slow
    def test_weights_go_back_to_the_same_state_dict(self):
        for _, depths, settings in CASES:
            network = trained_like(for_torch(), depths, **settings)
            state = to_torch(imported(network))
            expected = {k: t.numpy() for k, t in network.state_dict().items()}
            self.assertEqual(set(state), set(expected))
            for key, array in expected.items():
                if not key.endswith("num_batches_tracked"):
                    self.assertAllEqual(state[key], array, key)
            network.load_state_dict({k: torch.from_numpy(a) for k, a in state.items()})

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_head_is_left_out_and_other_depths_are_refused(self):
        network = trained_like(for_torch(), RESNET18, width=1 / 16)
        state = {k: t.numpy() for k, t in network.state_dict().items()}
        head = {"fc.weight": np.zeros((10, 32), np.float32), "fc.bias": np.zeros(10, np.float32)}
        found = from_torch({f"module.{k}": v for k, v in (state | head).items()}, 48)
        self.assertContainsSubset({"fc.weight", "fc.bias"}, set(found.ignored))
        state["layer1.2.conv1.weight"] = state["layer1.1.conv1.weight"]
        with self.assertRaisesRegex(DataError, "layer1.2.conv1.weight.*no place in"):
            from_torch(state, 48)
        del state["layer1.2.conv1.weight"], state["layer2.0.bn2.bias"]
        with self.assertRaisesRegex(DataError, "layer2.0.bn2.bias"):
            from_torch(state, 48)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_images_smaller_than_the_network_can_see_are_refused(self):
        network = trained_like(for_torch(), RESNET18, width=1 / 16)
        with self.assertRaisesRegex(ConfigError, "31; ResNet-18 needs at least 32 pixels"):
            from_torch({k: t.numpy() for k, t in network.state_dict().items()}, 31)


if __name__ == "__main__":
    tf.test.main()
