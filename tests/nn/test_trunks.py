"""Every trunk keeps the contract; what the registry says without TensorFlow is so."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.experiment import Model
from dc_tf.nn.batch_norm import BatchNorm
from dc_tf.nn.trunk import Trunk
from dc_tf.nn.trunks import (
    TRUNKS,
    all_layer_names,
    feature_dim,
    make_trunk,
    settings_of,
    trunk_class,
    trunk_of,
)

pytestmark = pytest.mark.numeric

# (kind, stem, resolution): each form of each trunk, at its smallest resolution.
FORMS = [(kind, stem, r) for kind, of in TRUNKS.items() for stem, r in of.smallest.items()]


def model(kind, stem="imagenet", resolution=32, **others):
    others = {"width": 1 / 16, "fc": 12} | others
    return Model(trunk=kind, stem=stem, resolution=resolution, **others)


def images(count, size, seed=0):
    return np.random.default_rng(seed).random((count, size, size, 3), np.float32)


def count(variables):
    return sum(v.shape.num_elements() for v in variables)


class TrunksTest(tf.test.TestCase):
    @pytest.mark.merge
    @pytest.mark.slow
    def test_endpoints_have_the_names_and_kinds_that_are_promised_at_the_smallest_resolution(self):
        for kind, stem, resolution in FORMS:
            settings = model(kind, stem, resolution)
            trunk = trunk_of(settings).built_at_resolution()
            self.assertIsInstance(trunk, Trunk)
            found = trunk(images(2, resolution))
            self.assertEqual(tuple(found), trunk.layer_names)
            maps = tuple(name for name, features in found.items() if features.shape.rank == 4)
            self.assertEqual(maps, trunk.map_names)
            self.assertEqual(found[trunk.feature_layer].shape, (2, trunk.feature_dim))
            self.assertEqual(feature_dim(settings), trunk.feature_dim)
            self.assertEqual(trunk.settings, settings_of(settings))
            self.assertIn(trunk.copies_layer, trunk.map_names)
            self.assertIn(trunk.stem_conv, trunk.parts())
            for name, features in found.items():
                self.assertGreater(tf.size(features), 0, name)
                if name in maps:
                    self.assertAllGreaterEqual(features, 0.0)

    @pytest.mark.slow
    def test_counts_are_those_of_the_network(self):
        for kind, stem, resolution in FORMS:
            for sobel, size in ((True, resolution), (False, resolution + 13)):
                trunk = trunk_of(model(kind, stem, size, sobel=sobel, width=0.1))
                trunk.built_at_resolution()
                counts = trunk.counts(**trunk.settings)
                dense = sum((inputs + 1) * outputs for inputs, outputs in counts.dense)
                learned = sum(conv.weights for conv in counts.convs) + dense
                self.assertEqual(learned, count(trunk.trainable_variables))
                running = 2 * sum(conv.outputs for conv in counts.convs)
                self.assertEqual(running, count(trunk.non_trainable_variables))
                maps = trunk.maps(images(1, size), training=False)
                self.assertEqual(counts.convs[0].side, maps[trunk.map_names[0]].shape[1])
                self.assertEqual(counts.convs[-1].side, maps[trunk.map_names[-1]].shape[1])
                self.assertEqual(counts.convs[-1].outputs, maps[trunk.map_names[-1]].shape[3])
                self.assertLen(trunk.torch_parts(), len(counts.convs) + len(counts.dense))
                self.assertEqual(set(trunk.torch_parts()), set(trunk.parts()))

    def test_convolutions_are_those_of_the_network_at_its_resolution_and_take_any_size(self):
        for kind in TRUNKS:
            trunk = trunk_of(model(kind, resolution=48)).built_at_resolution()
            found, expected = trunk.convolutions(images(1, 48)), trunk(images(1, 48))
            self.assertEqual(tuple(found), trunk.map_names)
            for name, maps in found.items():
                self.assertAllClose(maps, expected[name], atol=1e-5)
            last = trunk.convolutions(np.zeros((1, 64, 96, 3), np.float32))[trunk.map_names[-1]]
            self.assertGreater(last.shape[2], last.shape[1])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_last_map_has_the_stride_that_is_promised(self):
        for kind, stem, _ in FORMS:
            trunk = trunk_of(model(kind, stem, 64)).built_at_resolution()
            last = trunk.convolutions(images(1, 64))[trunk.map_names[-1]]
            self.assertEqual(last.shape[1], 64 // trunk.stride)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_dilated_resnet_keeps_the_size_of_its_maps_and_has_those_of_the_plain_one(self):
        for kind, stem, sobel in (("resnet18", "small", True), ("resnet50", "imagenet", False)):
            settings = dict(width=1 / 16, resolution=64, stem=stem, sobel=sobel)
            plain = make_trunk(kind, **settings).built_at_resolution()
            dilated = make_trunk(kind, **settings, dilated=True).built_at_resolution()
            dilated.set_weights(plain.get_weights())
            self.assertEqual(dilated.stride, plain.stride // 2)
            pictures = np.random.default_rng(0).random((2, 64, 128, 3), np.float32)
            found, expected = dilated.convolutions(pictures), plain.convolutions(pictures)
            for name, maps in expected.items():
                step = 2 if name.startswith("block4") else 1
                self.assertAllClose(found[name][:, ::step, ::step], maps, atol=1e-5)
            last = found[plain.map_names[-1]]
            self.assertEqual(last.shape[1:3], [64 // dilated.stride, 128 // dilated.stride])
            counted = dilated.counts(**settings, dilated=True).convs[-1]
            self.assertEqual((counted.side, counted.outputs), (last.shape[1], last.shape[3]))

    @pytest.mark.slow
    def test_weights_depend_on_the_seed_alone(self):
        for kind in TRUNKS:
            one, same, other = (
                trunk_of(model(kind), seed).built_at_resolution().get_weights()
                for seed in (1, 1, 2)
            )
            for a, b in zip(one, same, strict=True):
                self.assertAllEqual(a, b)
            self.assertNotAllClose(one[0], other[0])
            kernels = [w for w in one if w.ndim == 4 and w.size > 1000]
            for kernel in kernels:
                side, _, _, filters = kernel.shape
                self.assertAllClose(np.std(kernel), np.sqrt(2 / (side**2 * filters)), rtol=0.15)

    @pytest.mark.slow
    def test_products_in_bfloat16_give_float32_features_near_the_exact_ones(self):
        for kind in TRUNKS:
            exact, half = (
                trunk_of(model(kind, compute_dtype=dtype)).built_at_resolution()
                for dtype in ("float32", "bfloat16")
            )
            self.assertEqual(half.product_dtype, "bfloat16")
            expected, found = (trunk(images(4, 32)) for trunk in (exact, half))
            for name, features in found.items():
                self.assertEqual(features.dtype, tf.float32)
                self.assertNotAllEqual(features, expected[name])
                apart = np.linalg.norm(features - expected[name])
                self.assertLess(apart, 0.1 * np.linalg.norm(expected[name]), name)

    @pytest.mark.slow
    def test_every_batch_norm_shares_its_statistics(self):
        class Pair:
            size = 2

            def all_sum(self, x):
                return x

        for kind in TRUNKS:
            trunk = trunk_of(model(kind)).built_at_resolution()
            pair = Pair()
            trunk.share_statistics(pair)
            norms = [layer for layer in trunk.submodules if isinstance(layer, BatchNorm)]
            self.assertLen(norms, len(trunk.counts(**trunk.settings).convs))
            for norm in norms:
                self.assertEqual(norm.all_sum, pair.all_sum)

    def test_no_stride_exceeds_its_kernel_whose_gradient_crashes_in_onednn(self):
        for kind, stem, resolution in FORMS:
            trunk = trunk_of(model(kind, stem, resolution))
            for name, part in trunk.parts().items():
                if hasattr(part, "conv"):
                    self.assertLessEqual(part.conv.strides[0], part.conv.kernel_size[0], name)

    @pytest.mark.bfloat16
    def test_a_fresh_one_has_the_same_settings_but_for_changes(self):
        trunk = make_trunk("resnet18", width=1 / 16, resolution=32, stem="small", sobel=True)
        fresh = trunk.fresh(compute_dtype="bfloat16", seed=3, resolution=48)
        self.assertEqual(fresh.settings, {**trunk.settings, "resolution": 48})
        self.assertEqual(
            (fresh.kind, fresh.product_dtype, fresh.folded), ("resnet18", "bfloat16", 0)
        )
        self.assertTrue(trunk.fresh(folded=True).folded)

    def test_layers_of_all_networks_are_listed_once(self):
        names = all_layer_names()
        self.assertLen(set(names), len(names))
        for name in ("conv13", "fc7", "block4_3", "pool"):
            self.assertIn(name, names)

    def test_the_registry_does_not_import_tensorflow(self):
        program = "import sys, dc_tf.nn.trunks; sys.exit('tensorflow' in sys.modules)"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

    def test_names_are_those_of_the_classes(self):
        for kind in TRUNKS:
            self.assertEqual(trunk_class(kind).kind, kind)


if __name__ == "__main__":
    tf.test.main()
