# Sourced by quickstart.sh, test.sh, .ci/run and people: makes the environment once and activates it.
#
#   DC_TF_VENV         where it goes (default: .venv in the repository)
#   DC_TF_PYTHON       the Python to make it from (default: python3, else the first 3.10-3.12 found)
#   DC_TF_ACCELERATOR  cpu or gpu (default: gpu where nvidia-smi works)
#
# Versions come from constraints.txt. Everything is said on stderr; stdout is for results.

DC_TF_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DC_TF_VENV="${DC_TF_VENV:-$DC_TF_ROOT/.venv}"
export DC_TF_VENV

# Never exits: that would close the terminal of somebody who sources this file.
dc_tf_fail() {
  echo "environment.sh: $1" >&2
  return 1
}

# True for an interpreter that starts, has the right version and can make environments.
dc_tf_python_fits() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
    >/dev/null 2>&1
}

dc_tf_find_python() {
  local candidate
  for candidate in ${DC_TF_PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if dc_tf_python_fits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  dc_tf_fail "needs Python 3.10, 3.11 or 3.12 with its venv module; ${DC_TF_PYTHON:-python3} is \
$("${DC_TF_PYTHON:-python3}" --version 2>&1 || true). Install one of them (on Debian and Ubuntu with its \
python3-venv package) or name one: DC_TF_PYTHON=/path/to/python3.11"
}

dc_tf_accelerator() {
  if [ -n "${DC_TF_ACCELERATOR:-}" ]; then
    echo "$DC_TF_ACCELERATOR"
  elif nvidia-smi -L >/dev/null 2>&1; then
    echo gpu
  else
    echo cpu
  fi
}

# What the environment was made from; when it changes, the environment is brought up to date.
dc_tf_stamp() {
  echo "$1 $DC_TF_ROOT"
  (cd "$DC_TF_ROOT" && cat setup.py pyproject.toml constraints.txt | cksum)
}

dc_tf_make_environment() {
  local python pip constraints="$DC_TF_ROOT/constraints.txt"
  if ! dc_tf_python_fits "$DC_TF_VENV/bin/python"; then
    python="$(dc_tf_find_python)" || return 1
    echo "Making the environment $DC_TF_VENV from $("$python" --version)." >&2
    "$python" -m venv --clear "$DC_TF_VENV" >&2 || { dc_tf_fail "$python -m venv failed" || return 1; }
  fi
  echo "Installing the tested packages for $1; this happens once and takes some minutes." >&2
  pip="$DC_TF_VENV/bin/python -m pip --disable-pip-version-check"
  $pip install -c "$constraints" pip >&2 ||
    { dc_tf_fail "pip could not be updated; see above" || return 1; }
  # The same pins for what packages are built with.
  $pip install --build-constraint "$constraints" -c "$constraints" -e "$DC_TF_ROOT[$1,test]" >&2 ||
    { dc_tf_fail "installation failed; see above. What was installed stays for another try" || return 1; }
}

dc_tf_environment() {
  local accelerator stamp
  accelerator="$(dc_tf_accelerator)"
  case "$accelerator" in cpu | gpu) ;; *)
    dc_tf_fail "DC_TF_ACCELERATOR is '$accelerator'; it must be cpu or gpu" || return 1 ;;
  esac
  stamp="$(dc_tf_stamp "$accelerator")"
  if [ "$(cat "$DC_TF_VENV/dc_tf.stamp" 2>/dev/null)" != "$stamp" ]; then
    dc_tf_make_environment "$accelerator" || return 1
    echo "$stamp" >"$DC_TF_VENV/dc_tf.stamp"
  fi
  # shellcheck disable=SC1091
  . "$DC_TF_VENV/bin/activate"
}

dc_tf_environment || return 1
