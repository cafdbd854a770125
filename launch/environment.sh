# Sourced by quickstart.sh, test.sh, .ci/run and people: makes the environment once and activates it.
#
#   DC_TF_VENV         where it goes (default: .venv in the repository)
#   DC_TF_PYTHON       the Python to make it from (default: python3, else the first 3.10-3.12 found)
#   DC_TF_ACCELERATOR  cpu or gpu (default: gpu where nvidia-smi works)
#   DC_TF_STACK        tf220 (default); or tf215, TensorFlow 2.15 with tensorflow-addons, which needs
#                      Python 3.11, is for the CPU, and goes into DC_TF_VENV-tf215
#
# Versions come from constraints.txt or constraints-tf215.txt. A terminal shows one line that moves; the output of pip is in
# DC_TF_VENV/install.log. Everything is said on stderr; stdout is for results.

DC_TF_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DC_TF_STACK="${DC_TF_STACK:-tf220}"
# A shell may have either environment active.
DC_TF_VENV="${DC_TF_VENV:-$DC_TF_ROOT/.venv}"
DC_TF_VENV="${DC_TF_VENV%-tf215}"
[ "$DC_TF_STACK" != tf215 ] || DC_TF_VENV="$DC_TF_VENV-tf215"
export DC_TF_VENV DC_TF_STACK

# Never exits: that would close the terminal of somebody who sources this file.
dc_tf_fail() {
  echo "environment.sh: $1" >&2
  return 1
}

# True for an interpreter that starts, has the right version and can make environments.
dc_tf_python_fits() {
  local versions="range(10, 13)"
  [ "$DC_TF_STACK" != tf215 ] || versions="[11]"
  "$1" -c "import sys, venv, ensurepip; sys.exit(sys.version_info[1] not in $versions)" \
    >/dev/null 2>&1
}

dc_tf_find_python() {
  local candidate versions="3.10, 3.11 or 3.12"
  [ "$DC_TF_STACK" != tf215 ] || versions="3.11"
  for candidate in ${DC_TF_PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if dc_tf_python_fits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  dc_tf_fail "needs Python $versions with its venv module; ${DC_TF_PYTHON:-python3} is \
$("${DC_TF_PYTHON:-python3}" --version 2>&1 || true). Install one of them (on Debian and Ubuntu with its \
python3-venv package) or name one: DC_TF_PYTHON=/path/to/python3.11"
}

dc_tf_accelerator() {
  if [ -n "${DC_TF_ACCELERATOR:-}" ]; then
    echo "$DC_TF_ACCELERATOR"
  elif [ "$DC_TF_STACK" = tf215 ]; then
    echo cpu
  elif nvidia-smi -L >/dev/null 2>&1; then
    echo gpu
  else
    echo cpu
  fi
}

dc_tf_constraints() {
  local of_stack=""
  [ "$DC_TF_STACK" != tf215 ] || of_stack="-tf215"
  echo "$DC_TF_ROOT/constraints$of_stack.txt"
}

# What the environment was made from; when it changes, the environment is brought up to date.
dc_tf_stamp() {
  echo "$1 $DC_TF_ROOT"
  (cd "$DC_TF_ROOT" && cat setup.py pyproject.toml "$(dc_tf_constraints)" | cksum)
}

dc_tf_make_environment() {
  local python started=$SECONDS constraints extras="$1"
  constraints="$(dc_tf_constraints)"
  [ "$DC_TF_STACK" != tf215 ] || extras="$1,addons"
  if ! dc_tf_python_fits "$DC_TF_VENV/bin/python"; then
    python="$(dc_tf_find_python)" || return 1
    echo "Making the environment $DC_TF_VENV from $("$python" --version)." >&2
    "$python" -m venv --clear "$DC_TF_VENV" >&2 || { dc_tf_fail "$python -m venv failed" || return 1; }
  fi
  echo "Installing the tested packages for $1; this happens once and takes some minutes." >&2
  : >"$DC_TF_VENV/install.log" || { dc_tf_fail "$DC_TF_VENV cannot be written" || return 1; }
  dc_tf_pip "pip could not be updated" -c "$constraints" pip || return 1
  # The same pins for what packages are built with.
  dc_tf_pip "installation failed; what was installed stays for another try" \
    --build-constraint "$constraints" -c "$constraints" -e "${DC_TF_ROOT}[$extras,test]" || return 1
  dc_tf_compile
  echo "Installed in $(dc_tf_minutes "$((SECONDS - started))"); log: $DC_TF_VENV/install.log" >&2
}

# dc_tf_pip FAILURE ARGUMENTS: pip install; shows how far it is, and where it fails the end of its log.
dc_tf_pip() {
  local failure="$1" log="$DC_TF_VENV/install.log"
  shift
  {
    code=0
    "$DC_TF_VENV/bin/python" -m pip --disable-pip-version-check --no-input install --no-compile "$@" 2>&1 ||
      code=$?
    echo "dc_tf_pip: exit code $code"
  } | dc_tf_show_pip "$log" && return
  tail -n 20 "$log" >&2
  dc_tf_fail "$failure. Above are the last lines of $log"
}

# Byte code, which pip would write on one core in most of its time. Some packages have files that are no
# Python of this version; Python compiles again what is missing.
dc_tf_compile() {
  local packages
  packages="$("$DC_TF_VENV/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
  if [ -t 2 ]; then printf 'compiling the packages' >&2; else echo "compiling the packages" >&2; fi
  # Not compileall's own processes, which are sent one file after another.
  find "$packages" "$DC_TF_ROOT/dc_tf" -mindepth 1 -maxdepth 1 -print0 |
    xargs -0 -n 4 -P "$(nproc)" "$DC_TF_VENV/bin/python" -m compileall -q >>"$DC_TF_VENV/install.log" 2>&1 ||
    echo "some files were not compiled, see above" >>"$DC_TF_VENV/install.log"
  [ ! -t 2 ] || printf '\r\033[K' >&2
}

# Reads pip's output, which all goes to a log: to a terminal one line that moves, else few lines.
# Returns pip's exit code.
dc_tf_show_pip() {
  local log="$1" line part="" code state="starting pip" packages=0 word names started=$SECONDS
  while true; do
    [ ! -t 2 ] || printf '\r\033[K%.70s, %s' "$state" "$(dc_tf_minutes "$((SECONDS - started))")" >&2
    code=0
    IFS= read -r -t 1 line || code=$?
    part="$part$line"
    [ "$code" -le 128 ] || continue # a second without a whole line
    if [ "${part#dc_tf_pip: exit code }" != "$part" ]; then
      [ ! -t 2 ] || printf '\r\033[K' >&2
      return "${part##* }"
    fi
    printf '%s\n' "$part" >>"$log"
    case "$part" in
      "Collecting "*)
        word="${part#Collecting }"
        packages=$((packages + 1))
        state="$packages packages found, ${word%% *}" ;;
      *"Downloading "*)
        word="${part#*Downloading }"
        state="$packages packages found, downloading ${word##*/}" ;;
      "Installing collected packages: "*)
        names="${part//[^,]/}"
        state="installing $((${#names} + 1)) packages"
        [ -t 2 ] || echo "$state" >&2 ;;
    esac
    [ "$code" = 0 ] || return "$code" # pip was killed
    part=""
  done
}

dc_tf_minutes() {
  printf '%d:%02d' "$(($1 / 60))" "$(($1 % 60))"
}

dc_tf_environment() {
  local accelerator stamp
  case "$DC_TF_STACK" in tf220 | tf215) ;; *)
    dc_tf_fail "DC_TF_STACK is '$DC_TF_STACK'; it must be tf220 or tf215" || return 1 ;;
  esac
  accelerator="$(dc_tf_accelerator)"
  case "$accelerator" in cpu | gpu) ;; *)
    dc_tf_fail "DC_TF_ACCELERATOR is '$accelerator'; it must be cpu or gpu" || return 1 ;;
  esac
  if [ "$DC_TF_STACK $accelerator" = "tf215 gpu" ]; then
    dc_tf_fail "TensorFlow 2.15 and faiss-gpu need different CUDA libraries; DC_TF_STACK=tf215 is for \
DC_TF_ACCELERATOR=cpu" || return 1
  fi
  stamp="$(dc_tf_stamp "$accelerator")"
  if [ "$(cat "$DC_TF_VENV/dc_tf.stamp" 2>/dev/null)" != "$stamp" ]; then
    dc_tf_make_environment "$accelerator" || return 1
    echo "$stamp" >"$DC_TF_VENV/dc_tf.stamp"
  fi
  # shellcheck disable=SC1091
  . "$DC_TF_VENV/bin/activate"
}

dc_tf_environment || return 1
