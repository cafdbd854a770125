"""Runs, checkpoints and exports of TensorFlow 2.20 in 2.15, and the other way round."""

import os
import shutil
import tempfile

import numpy as np
import runs
import stacks
import tensorflow as tf
import two_stacks
import workers


@stacks.needs_other
class TwoStacksTest(tf.test.TestCase):
    """Each stack makes a run and exports; the other opens them and continues a stopped run."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.ours, cls.theirs = (os.path.join(folder, name) for name in ("ours", "theirs"))
        for path in (cls.ours, cls.theirs):
            os.mkdir(path)
        settings = runs.settings(runs.make_data(folder))
        workers.on_cluster(1, two_stacks.make, cls.ours, settings)
        answer = stacks.run_on_the_other("two_stacks.py", cls.ours, cls.theirs)
        cls.version = answer.split()[-1]
        with np.load(os.path.join(cls.ours, "found.npz")) as found:
            cls.found_there = dict(found)
        (cls.found_here,) = workers.on_cluster(1, two_stacks.visit, cls.theirs)

    def test_the_other_interpreter_has_the_other_stack(self):
        self.assertCountEqual(
            {self.version[:4], tf.__version__[:4]}, {"2.15", "2.20"}, "DC_TF_OTHER_PYTHON"
        )

    def test_what_2_20_and_2_15_write_opens_in_the_other_with_equal_weights_and_features(self):
        for folder, found in ((self.ours, self.found_there), (self.theirs, self.found_here)):
            with np.load(os.path.join(folder, "expected.npz")) as expected:
                self.assertEqual(str(found["digest"]), str(expected["digest"]))
                for name in ("fc7", "saved_model", "keras", "keras_weights"):
                    self.assertAllClose(found[name], expected["fc7"], 1e-4, 1e-4, msg=name)
                self.assertAllClose(found["classifier"], expected["classifier"], 1e-4, 1e-4)
                for name in ("fc7", "classifier"):
                    self.assertGreater(np.std(expected[name]), 1e-3, name)

    def test_a_run_that_one_began_the_other_continues(self):
        for folder, found in ((self.ours, self.found_there), (self.theirs, self.found_here)):
            self.assertEqual(found["steps"], two_stacks.STEPS)
            whole = two_stacks.losses(os.path.join(folder, "whole"))
            self.assertLen(found["losses"], two_stacks.STEPS)
            # The same images; kernels round differently, and then rows may change their cluster.
            self.assertAllClose(found["losses"][: two_stacks.STOP], whole[: two_stacks.STOP], 1e-3)
            self.assertAllClose(found["losses"], whole, rtol=0.05)


if __name__ == "__main__":
    tf.test.main()
