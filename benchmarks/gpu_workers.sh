#!/usr/bin/env bash
# Checks several workers with NCCL, one process a GPU, on a host with two GPUs or more; ten minutes:
#
#   benchmarks/gpu_workers.sh [--workers=N] [--output=FILE]     # N: all GPUs
#   benchmarks/gpu_workers.sh --cpu --workers=2                 # the script itself, without a GPU
#
# A line for each check: sums over groups, steps of 1 and N workers, a worker that is killed, a stop
# and resumption, speed of messages, seconds of a step by what it exchanges. See gpu_workers.py.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/../launch/environment.sh" || exit 1
exec python "$here/gpu_workers.py" "$@"
