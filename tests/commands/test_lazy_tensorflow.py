"""TensorFlow at its first use, each case in a process of its own."""

import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
INSTALLED = """
import sys
from dc_tf.commands import lazy_tensorflow
lazy_tensorflow.install()
import tensorflow as tf
import tensorflow
def is_loaded():
    return "tensorflow.python" in sys.modules
assert not is_loaded()
"""


@pytest.mark.tf215
class LazyTensorFlowTest(tf.test.TestCase):
    def run_python(self, program):
        done = subprocess.run(
            [sys.executable, "-c", INSTALLED + program],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_first_use_loads_it_without_what_is_optional(self):
        self.run_python("""
assert tf.constant(3).numpy() == 3
assert is_loaded() and sys.modules["tensorflow"] is tf is tensorflow
assert tf.__spec__.loader is tf.__loader__ and type(tf) is type(sys)
assert "pandas" not in sys.modules and "tf_keras" not in sys.modules
try:
    tf.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    sys.exit("no error")
from dc_tf import keras
if not tf.__version__.startswith("2.15."):  # which has a Keras of its own
    assert "pandas" not in sys.modules and "scipy" not in sys.modules
import scipy.linalg, pandas, PIL.Image
assert keras.layers.Dense(2)(tf.ones((3, 1))).shape == (3, 2)
assert tf.keras.layers.Dense is keras.layers.Dense
""")

    def test_pyarrow_imports_pandas_only_for_what_needs_it(self):
        self.run_python("""
import numpy as np, pyarrow as pa, pyarrow.parquet
table = pa.table({"a": pa.array(np.arange(3)), "b": pa.array(["x", None, "z"])})
assert table.to_pylist()[1] == {"a": 1, "b": None}
assert "pandas" not in sys.modules and type(pa.__loader__) is type(np.__loader__)
frame = table.to_pandas()
import pandas
assert type(frame) is pandas.DataFrame and frame.a.tolist() == [0, 1, 2]
assert pa.Table.from_pandas(frame)["a"].to_pylist() == [0, 1, 2]
assert pa.array(pandas.Series([1.5, None])).null_count == 1
""")

    def test_an_import_from_inside_loads_it_once(self):
        self.run_python("""
import importlib.machinery
loads = []
load = importlib.machinery.SourceFileLoader.exec_module
def counted(self, module):
    loads.append(module.__name__)
    load(self, module)
importlib.machinery.SourceFileLoader.exec_module = counted
from tensorflow.python.eager import context
import tensorflow.python
assert is_loaded() and context.context().executing_eagerly()
for name in ("tensorflow", "tensorflow.python", "tensorflow.python.eager.context"):
    assert loads.count(name) == 1, (name, loads.count(name))
    assert sys.modules[name].__spec__.name == name
""")

    def test_threads_wait_for_the_first_of_them(self):
        self.run_python("""
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda n: int(tf.constant(n)), range(8)))
assert found == list(range(8))
""")

    def test_an_interrupted_load_can_be_repeated(self):
        self.run_python("""
from unittest import mock
with mock.patch.object(tf.__spec__.loader.loader, "exec_module", side_effect=KeyboardInterrupt):
    try:
        tf.constant(3)
    except KeyboardInterrupt:
        pass
assert not is_loaded()
assert tf.constant(3).numpy() == 3
""")


if __name__ == "__main__":
    tf.test.main()
