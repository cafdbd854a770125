#!/usr/bin/env bash
# Makes the environment and runs the tests: launch/test.sh [pytest arguments]
#
#   launch/test.sh                      the default suite
#   launch/test.sh tests/clustering -x  a part of it
#   launch/test.sh -m slow              what takes a minute or more each
#
# Tests work on the CPU; CUDA_VISIBLE_DEVICES=0 launch/test.sh lends them a GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" || exit 1
cd "$DC_TF_ROOT"
exec python -m pytest "$@"
