"""A set of digests against a dict."""

import numpy as np
import tensorflow as tf

from dc_tf.data.sources import digests
from dc_tf.data.sources.digests import Digests


class DigestsTest(tf.test.TestCase):
    def test_it_answers_as_a_dict_would_through_many_merges(self):
        kept, digests._LEAST_MERGE = digests._LEAST_MERGE, 50
        self.addCleanup(setattr, digests, "_LEAST_MERGE", kept)
        rng = np.random.default_rng(0)
        # Few first bytes, and zeros at the end, which NumPy drops when it shows a string.
        pool = [bytes([n % 7]) + rng.bytes(13) + bytes(2) for n in range(600)]
        pool += [digest[:14] + bytes([0, 1]) for digest in pool[:300]] + [bytes(16)]
        seen, reference = Digests(), {}
        for row, choice in enumerate(rng.integers(0, len(pool), 3000)):
            digest = pool[choice]
            self.assertEqual(seen.add(digest, row), reference.get(digest))
            reference.setdefault(digest, row)
        self.assertLen(seen, len(reference))

    def test_what_an_earlier_call_had_seen_is_taken_up(self):
        rng = np.random.default_rng(0)
        known = [rng.bytes(16) for _ in range(100)]
        seen = Digests()
        seen.extend(b"".join(known), first_row=0)
        self.assertEqual([seen.add(digest, 500) for digest in known], list(range(100)))
        self.assertIsNone(seen.add(rng.bytes(16), 500))


if __name__ == "__main__":
    tf.test.main()
