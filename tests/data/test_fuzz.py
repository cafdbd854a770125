"""Bytes of strangers lead to a result or to a message, never to another error, a hang or a flood.

benchmarks/fuzz.py runs the same targets with as many examples as there is time for.
"""

import json
import resource
import tempfile

import pytest
import tensorflow as tf

pytest.importorskip("hypothesis", reason="pip install -c constraints.txt hypothesis")

import fuzz_targets  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = settings(
    max_examples=60,
    deadline=None,  # targets have an alarm of their own
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MAX_GROWTH_BYTES = 500e6


class FuzzTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.targets = fuzz_targets.targets(tempfile.mkdtemp())

    def setUp(self):
        super().setUp()
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def tearDown(self):
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._peak)
        self.assertLess(grown, MAX_GROWTH_BYTES)
        super().tearDown()

    def test_what_is_intact_is_accepted(self):
        for name, target in self.targets.items():
            for number, data in enumerate(target.seeds):
                self.assertTrue(target(data), f"{name} {number}")

    def fuzz(self, name):
        target = self.targets[name]

        @EXAMPLES
        @given(st.sampled_from(target.seeds), fuzz_targets.edits())
        def run(seed, changes):
            target(fuzz_targets.mutate(seed, changes))

        run()

    def test_images(self):
        self.fuzz("image")

    def test_manifests(self):
        self.fuzz("manifest")
        target = self.targets["manifest"]

        @EXAMPLES
        @given(st.lists(st.integers(0, 9), max_size=4), fuzz_targets.json_values())
        def run(path, value):
            target(fuzz_targets.replaced(target.seeds[0], path, value))

        run()

    def test_indexes(self):
        self.fuzz("index")

    def test_shards(self):
        self.fuzz("shard")

    def test_records(self):
        self.fuzz("record")
        self.fuzz("framed record")

    def test_archives(self):
        self.fuzz("tar")
        self.fuzz("zip")

    def test_lists(self):
        for name in ("csv", "jsonl", "text"):
            self.fuzz(name)

    def test_a_finding_is_not_swallowed(self):
        wrong = fuzz_targets.Target([b""], lambda data: json.loads(data))
        with self.assertRaises(ValueError):
            wrong(b"{")


if __name__ == "__main__":
    tf.test.main()
