#!/usr/bin/env bash
# Makes the environment and runs the tests: launch/test.sh [pytest arguments]
#
#   launch/test.sh                      the default suite
#   launch/test.sh tests/clustering -x  a part of it
#   launch/test.sh -m slow              what .ci/run runs beside it; BUILD.md lists it
#   launch/test.sh -m extended          what .ci/run leaves out; BUILD.md lists it
#   launch/test.sh -m "slow or not slow"  everything
#   launch/test.sh --processor=avx2 -m numeric
#                                       the arithmetic as on another processor, of
#                                       tests/support/processors.py: eigen or avx2
#
# Two tests run at a time, but those that go by the clock run alone (-n 0: one, in this process).
# Tests work on the CPU; CUDA_VISIBLE_DEVICES=0 launch/test.sh lends them a GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" || exit 1
cd "$DC_TF_ROOT"
exec python -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
