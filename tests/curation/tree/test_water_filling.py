"""Even shares, against pouring one row at a time."""

import unittest

import numpy as np
import pytest

from dc_tf.curation.tree.tree import Tree
from dc_tf.curation.tree.water_filling import even_shares

pytest.importorskip("hypothesis", reason="pip install -c constraints.txt hypothesis")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def poured(sizes, target):
    """Sorted shares, by giving one row after the other to the branch that has the fewest."""
    shares = [0] * len(sizes)
    for _ in range(min(target, sum(sizes))):
        open_ = [i for i, size in enumerate(sizes) if shares[i] < size]
        shares[min(open_, key=lambda i: shares[i])] += 1
    return shares


class EvenSharesTest(unittest.TestCase):
    @settings(max_examples=300, deadline=None)
    @given(SIZES, st.integers(0, 400), st.integers(0, 2**32))
    def test_they_are_what_pouring_gives_but_for_who_gets_the_remainder(self, sizes, target, seed):
        shares = even_shares(sizes, target, np.random.default_rng(seed))
        expected = poured(sizes, target)
        self.assertEqual(shares.sum(), min(target, sum(sizes)))
        self.assertTrue((shares <= sizes).all())
        np.testing.assert_array_equal(np.sort(shares), np.sort(expected))

    def test_the_remainder_is_drawn(self):
        shares = [tuple(even_shares([9] * 6, 15, np.random.default_rng(s))) for s in range(20)]
        self.assertGreater(len(set(shares)), 5)
        self.assertTrue(all(sorted(s) == [2, 2, 2, 3, 3, 3] for s in shares))

    def test_large_numbers_are_exact(self):
        sizes = np.array([1, 10**12, 10**13])
        shares = even_shares(sizes, 10**12 + 7, np.random.default_rng(0))
        self.assertEqual(shares.sum(), 10**12 + 7)
        self.assertEqual(shares[0], 1)
        self.assertLessEqual(abs(shares[1] - shares[2]), 1)


class TreeSharesTest(unittest.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_each_branch_has_an_even_share_unless_it_is_exhausted(self, data):
        sizes = np.array(data.draw(st.lists(st.integers(0, 40), min_size=4, max_size=30)))
        middle = data.draw(st.integers(2, 4))
        number = st.integers(0, middle - 1)
        parents = np.array(data.draw(st.lists(number, min_size=len(sizes), max_size=len(sizes))))
        top = np.arange(middle) % 2
        target = data.draw(st.integers(0, int(sizes.sum()) + 5))
        tree = Tree(np.repeat(np.arange(len(sizes)), sizes), (parents, top))
        shares = tree.shares(target, tree.sizes(), np.random.default_rng(0))
        self.assertEqual(shares.sum(), min(target, sizes.sum()))
        self.assertTrue((shares <= sizes).all())
        level_shares, level_sizes = shares, sizes
        for parent, count in ((parents, middle), (top, 2)):
            self.check_children(level_shares, level_sizes, parent)
            level_shares = np.bincount(parent, level_shares, count).astype(int)
            level_sizes = np.bincount(parent, level_sizes, count).astype(int)
        self.check_children(level_shares, level_sizes, np.zeros(2, int))

    def check_children(self, shares, sizes, parents):
        for node in np.unique(parents):
            ours, most = shares[parents == node], sizes[parents == node]
            short = ours[ours < most]
            if short.size:
                self.assertGreaterEqual(short.min() + 1, ours.max())

    def test_clusters_without_rows_have_none(self):
        tree = Tree(np.array([0, 0, 3, 3, 3, -1]), (np.array([1, -1, -1, 0]),))
        np.testing.assert_array_equal(tree.sizes(), [2, 0, 0, 3])
        shares = tree.shares(4, tree.sizes(), np.random.default_rng(0))
        np.testing.assert_array_equal(shares, [2, 0, 0, 2])

    def test_rows_that_were_dropped_do_not_count(self):
        tree = Tree(np.array([0, 0, 1, 1]))
        kept = np.array([True, False, True, True])
        np.testing.assert_array_equal(tree.sizes(kept), [1, 2])


if __name__ == "__main__":
    unittest.main()
