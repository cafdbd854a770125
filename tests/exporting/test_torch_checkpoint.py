"""Reading PyTorch checkpoints: which contents are read, and which are rejected without running."""

import argparse
import os
import pickle
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.torch_checkpoint import digest, read_checkpoint

torch = pytest.importorskip("torch", reason="pip install -c constraints.txt torch")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


class TorchCheckpointTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.get_temp_dir(), "weights.pth")

    def save(self, content, **settings):
        torch.save(content, self.path, **settings)
        return self.path

    def refused(self, *texts):
        with self.assertRaises(DataError) as caught:
            read_checkpoint(self.path)
        message = str(caught.exception)
        for text in [repr(self.path), *texts]:
            self.assertIn(text, message)
        self.assertNotIn("\n", message)

    def test_weights_are_found_alone_or_where_programs_put_them(self):
        weights = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
        contents = [weights, {"state_dict": weights, "epoch": 3, "arch": "vgg16"}]
        contents += [{"model": weights}, {"model": "vgg16", **weights}]
        for content in contents:
            for zipped in (True, False):  # the released files are of the time before zip
                self.save(content, _use_new_zipfile_serialization=zipped)
                state = read_checkpoint(self.path)
                self.assertCountEqual(state, weights)
                self.assertAllEqual(state["a.weight"], [[0, 1, 2], [3, 4, 5]])

    def test_parameters_counters_and_transposed_weights_are_arrays_too(self):
        network = torch.nn.BatchNorm2d(3)
        content = dict(network.named_parameters()) | dict(network.named_buffers())
        content["turned"] = torch.arange(6.0).view(2, 3).T
        state = read_checkpoint(self.save(content))
        self.assertAllEqual(state["weight"], np.ones(3))
        self.assertEqual(state["num_batches_tracked"], 0)
        self.assertAllEqual(state["turned"], [[0, 3], [1, 4], [2, 5]])

    def test_code_in_a_file_is_named_and_not_run(self):
        mark = self.path + ".ran"
        self.save({"state_dict": {"a": torch.ones(2)}, "hook": Hostile(mark)})
        self.refused("mkdir")
        self.assertFalse(os.path.exists(mark))
        for zipped in (True, False):
            options = argparse.Namespace(lr=0.1)
            self.save({"args": options}, _use_new_zipfile_serialization=zipped)
            self.refused("argparse.Namespace", "state_dict")
        self.save(torch.nn.Linear(2, 2))
        self.refused("torch.nn.modules.linear.Linear")

    def test_files_of_other_kinds_and_halves_of_files_are_refused(self):
        self.save({"a": torch.ones(1000)})
        with open(self.path, "rb") as f:
            whole = f.read()
        corrupt = [b"", b"hello", b"\xff\xd8\xff\xe0JFIF", whole[: len(whole) // 2]]
        for data in [*corrupt, pickle.dumps([1, 2]), b"PK\x03\x04" + bytes(100)]:
            with open(self.path, "wb") as f:
                f.write(data)
            self.refused("no checkpoint")

    def test_files_without_named_tensors_are_refused(self):
        for content in ([torch.ones(2)], torch.ones(2), {"epoch": 3}, {"state_dict": {}}):
            self.save(content)
            self.refused("no named tensors")

    def test_numbers_of_an_unknown_kind_are_named_with_their_key(self):
        self.save({"features.0.weight": torch.ones(3, dtype=torch.bfloat16)})
        self.refused("'features.0.weight'", "bfloat16")

    def test_a_small_file_cannot_fill_the_memory(self):
        self.save({"a": torch.ones(1).expand(10**7, 10**7)})
        self.refused("more than the file has")

    def test_a_missing_file_is_wrong_usage(self):
        with self.assertRaisesRegex(ConfigError, "there is no file '/nowhere/ours.pth'"):
            read_checkpoint("/nowhere/ours.pth")

    def test_a_pytorch_that_cannot_read_safely_is_refused(self):
        self.save({"a": torch.ones(2)})
        old = torch.torch_version.TorchVersion("2.5.1+cpu")
        with mock.patch.object(torch, "__version__", old):
            with self.assertRaisesRegex(ConfigError, "2.5.1.*2.6 or later"):
                read_checkpoint(self.path)

    def test_the_digest_is_sha_256(self):
        with open(self.path, "wb") as f:
            f.write(b"abc")
        self.assertStartsWith(digest(self.path), "ba7816bf8f01cfea")


if __name__ == "__main__":
    tf.test.main()
