"""The kinds of `--processor` do hide instructions from the libraries that say what they use."""

import json
import os
import subprocess
import sys

import processors
import pytest
import tensorflow as tf

PROGRAM = """
import json
import faiss, scipy.linalg, tensorflow as tf
from numpy._core._multiarray_umath import __cpu_features__ as features
from threadpoolctl import threadpool_info
tf.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
print(json.dumps({
    "faiss": faiss.SIMDConfig.get_level_name(),
    "numpy": features.get("X86_V4", False),
    "blas": sorted({i["architecture"] for i in threadpool_info() if "architecture" in i}),
}))
"""


@pytest.mark.slow
class ProcessorsTest(tf.test.TestCase):
    def test_libraries_leave_avx512_alone(self):
        for name, kind in processors.KINDS.items():
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM],
                env=os.environ | kind.environment | {"ONEDNN_VERBOSE": "1"},
                capture_output=True,
                text=True,
                timeout=120,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            expected = {"faiss": "AVX2", "numpy": False, "blas": ["Haswell"]}
            self.assertEqual(found, expected, name)
            self.assertRegex(done.stdout, r"onednn_verbose.*isa:Intel AVX2\n")


if __name__ == "__main__":
    tf.test.main()
