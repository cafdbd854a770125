#!/usr/bin/env bash
# Makes the environment and runs the tests: launch/test.sh [pytest arguments]
#
#   launch/test.sh                      the default suite
#   launch/test.sh tests/clustering -x  a part of it
#   launch/test.sh -m "slow and not extended"
#                                       the slow tests; BUILD.md lists them
#   launch/test.sh -m extended          longer forms of them; BUILD.md lists them too
#   launch/test.sh -m "slow or not slow"  everything
#   launch/test.sh --processor=avx2 -m numeric
#                                       the arithmetic as on another processor, of
#                                       tests/support/processors.py: eigen or avx2
#   DC_TF_STACK=tf215 launch/test.sh    the same on TensorFlow 2.15 with tensorflow-addons
#
# One test more than there are cores runs at a time, since tests also wait for processes that they
# start; at most four, and one for each 6 GiB of free memory. Those that go by the clock run alone.
# -n 0 runs one at a time, in this process.
# Tests work on the CPU; CUDA_VISIBLE_DEVICES=0 launch/test.sh lends them a GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" || exit 1
cd "$DC_TF_ROOT"
# Without byte code on disk, each of many processes would compile dc_tf anew.
unset PYTHONDONTWRITEBYTECODE
free_gib="$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)"
at_once="$(printf '%s\n' "$(($(nproc) + 1))" "$((free_gib / 6))" 4 | sort -n | head -n 1)"
exec python -m pytest -n "$((at_once > 2 ? at_once : 2))" --dist loadscope --no-loadscope-reorder "$@"
