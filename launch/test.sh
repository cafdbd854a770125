#!/usr/bin/env bash
# Makes the environment and runs the tests: launch/test.sh [pytest arguments]
#
#   launch/test.sh                      the default suite
#   launch/test.sh tests/clustering -x  a part of it
#   launch/test.sh -m "not alone"       also what takes half a minute or more each
#   launch/test.sh -n 0 -m alone        the rest; one at a time, since these start and kill jobs of
#                                       several workers and go by the clock
#
# Two tests run at a time (-n 0: one, in this process). Tests work on the CPU;
# CUDA_VISIBLE_DEVICES=0 launch/test.sh lends them a GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" || exit 1
cd "$DC_TF_ROOT"
exec python -m pytest -n 2 --dist loadscope "$@"
