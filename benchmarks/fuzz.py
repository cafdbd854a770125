"""Feeds corrupt bytes to every reader of files from untrusted sources.

    python benchmarks/fuzz.py --examples=2000 --seed=1

Each target of `tests/support/fuzz_targets.py` gets `--examples` examples; the manifest gets as many
again with one value replaced. At the first finding it exits with code 1 and prints the example.
The last line is one JSON object; the results are in `benchmarks/results/fuzz.md`.
"""

import collections
import json
import pathlib
import resource
import sys
import tempfile
import time

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "support"))

EXAMPLES = flags.DEFINE_integer("examples", 500, "For each target.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the examples.")
TARGETS = flags.DEFINE_list("targets", [], "Names of the targets; all by default.")


def main(_) -> None:
    import fuzz_targets
    from hypothesis import strategies as st

    found = fuzz_targets.targets(tempfile.mkdtemp())
    unknown = set(TARGETS.value) - set(found)
    if unknown:
        sys.exit(f"--targets has {', '.join(unknown)}; there are {', '.join(found)}.")
    results = {}
    for name in TARGETS.value or found:
        target = found[name]
        corrupt = st.tuples(st.sampled_from(target.seeds), fuzz_targets.edits())
        results[name] = fuzz(target, corrupt, lambda pair: fuzz_targets.mutate(*pair))
        print(name, results[name], flush=True)
    if "manifest" in results:
        target = found["manifest"]
        places = st.tuples(st.lists(st.integers(0, 9), max_size=4), fuzz_targets.json_values())
        name = "manifest, a value replaced"
        results[name] = fuzz(
            target, places, lambda pair: fuzz_targets.replaced(target.seeds[0], *pair)
        )
        print(name, results[name], flush=True)
    print(json.dumps(results))


def fuzz(target, strategy, make) -> dict:
    """{examples, accepted, seconds, peak_mb} of a target; raises the error of a finding."""
    import hypothesis

    counts, started = collections.Counter(), time.monotonic()

    @hypothesis.seed(SEED.value)
    @hypothesis.settings(
        max_examples=EXAMPLES.value,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def run(example):
        counts[target(make(example))] += 1

    run()
    return {
        "examples": sum(counts.values()),
        "accepted": counts[True],
        "seconds": round(time.monotonic() - started, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    app.run(main)
