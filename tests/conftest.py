"""Settings that must stand before TensorFlow is imported; a setting from outside wins."""

import os

import dc_tf  # noqa: F401  its choice of kernels too, which tests' processes inherit

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# The workers of a test would fight over a GPU; CUDA_VISIBLE_DEVICES=0 launch/test.sh lends it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# On a large machine the default, all cores for each of several processes, is slower.
for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, str(max(2, min(4, os.cpu_count() or 1))))
# A cluster or preset of the shell that started the tests is not theirs.
os.environ.pop("TF_CONFIG", None)
