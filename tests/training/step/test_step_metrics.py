"""What a step measures: sums over images, by name."""

import types

import numpy as np
import tensorflow as tf

from dc_tf.nn import losses
from dc_tf.training.step.step_metrics import (
    IMAGE_NAMES,
    NAMES,
    STEP_NAMES,
    image_sums,
    mean_metrics,
    pack,
    unpack,
)

ROWS, ROTATIONS, SUPER, SUB, CLUSTERINGS, VIEWS = 12, 4, 8, 5, 3, 2


def cross_entropy(logits, ids):
    logits = logits.astype(np.float64)
    picked = np.take_along_axis(logits, ids[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - picked


class ImageSumsTest(tf.test.TestCase):
    def test_they_are_those_of_numpy(self):
        random = np.random.default_rng(0)
        super_logits = random.standard_normal((ROWS, SUPER)).astype(np.float32)
        sub_logits = random.standard_normal((ROWS, CLUSTERINGS, SUB)).astype(np.float32)
        super_id = random.integers(0, SUPER, ROWS, np.int32)
        sub_id = random.integers(0, SUB, (ROWS, CLUSTERINGS), np.int32)
        objective = losses.hierarchical(super_logits, sub_logits, super_id, sub_id)
        stage = types.SimpleNamespace(
            clusterings=CLUSTERINGS,
            views=types.SimpleNamespace(count=VIEWS),
            contrast=types.SimpleNamespace(weight=0.25),
        )
        contrast = random.random(ROWS, np.float32)
        sums = image_sums(objective, super_id, sub_id, ROTATIONS, stage, contrast)
        without = image_sums(objective, super_id, sub_id, ROTATIONS, stage)
        guess = super_logits.argmax(-1)
        of_super = cross_entropy(super_logits, super_id).sum()
        of_sub = cross_entropy(sub_logits, sub_id).mean(-1).sum()
        expected = {
            "images": ROWS,
            "loss": 0.75 * (of_super + of_sub) + 0.25 * contrast.sum(),
            "super_loss": of_super,
            "sub_loss": of_sub,
            "contrast_loss": contrast.sum(),
            "super_hits": (guess == super_id).sum(),
            "rotation_hits": (guess % ROTATIONS == super_id % ROTATIONS).sum(),
            "sub_hits": (sub_logits.argmax(-1) == sub_id).sum() / CLUSTERINGS,
        }
        found = dict(zip(IMAGE_NAMES, sums.numpy(), strict=True))
        self.assertAllClose(found, {n: value / VIEWS for n, value in expected.items()}, rtol=1e-5)
        found = dict(zip(IMAGE_NAMES, without.numpy(), strict=True))
        expected |= {"loss": of_super + of_sub, "contrast_loss": 0}
        self.assertAllClose(found, {n: value / VIEWS for n, value in expected.items()}, rtol=1e-5)


class PackTest(tf.test.TestCase):
    def test_what_is_packed_is_unpacked_by_name_and_averaged(self):
        images = pack(
            IMAGE_NAMES,
            **dict.fromkeys(IMAGE_NAMES, 6.0),
        )
        steps = pack(STEP_NAMES, steps=2.0, trunk_gradient=8.0, head_gradient=18.0, stops=0.0)
        sums = tf.concat([images, steps], 0)
        self.assertEqual(tuple(unpack(sums)), NAMES)
        self.assertEqual(unpack(sums)["head_gradient"], 18.0)
        means = mean_metrics(sums)
        self.assertEqual((means["loss"], means["sub_accuracy"]), (1.0, 1.0))
        self.assertEqual((means["gradient_norm"], means["head_gradient_norm"]), (2.0, 3.0))

    def test_a_name_that_is_missing_or_unknown_is_refused(self):
        for values in ({"steps": 1.0}, dict.fromkeys((*STEP_NAMES, "other"), 1.0)):
            with self.assertRaisesRegex(ValueError, "got .*; needs .*stops"):
                pack(STEP_NAMES, **values)


if __name__ == "__main__":
    tf.test.main()
