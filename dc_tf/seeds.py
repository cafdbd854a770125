"""Seeds derived from their purpose alone, independent of the number of workers.

np.random.default_rng(derive("head", seed, stage, super_class))
"""

import zlib

import numpy as np


def derive(purpose: str, *key: int) -> int:
    """An int in [0, 2**31), a hash of the purpose and the non-negative integers `key`."""
    words = (zlib.crc32(purpose.encode()), len(key), *key)
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that scatters all bits: SplitMix64's finaliser (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
