"""Real images beside the repository, or where DC_TF_SHARED_DATA says."""

import os
import unittest

_BESIDE = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data")


def archive(name):
    """Path of a zip of real images; skips the test that asks where there is none."""
    folder = os.environ.get("DC_TF_SHARED_DATA", os.path.normpath(_BESIDE))
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        raise unittest.SkipTest(f"needs {name} in {folder} (or in $DC_TF_SHARED_DATA)")
    return path
