#!/usr/bin/env bash
# Makes the environment and runs the whole job, from images to measured features:
#
#   launch/quickstart.sh [--images=DIR] [--minutes=8] [--workers=2] [--workdir=DIR]
#
# Without --images it draws its own. See launch/quickstart.py --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for argument in "$@"; do
  case "$argument" in -h | --help) exec python3 "$here/quickstart.py" --help ;; esac
done
. "$here/environment.sh" || exit 1
exec python "$here/quickstart.py" "$@"
