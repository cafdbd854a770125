"""Selects TensorFlow's CPU kernels, oneDNN or Eigen, before TensorFlow is imported.

    choice = choose()      # dc_tf's first import has done it
    enabled()              # whether oneDNN is on in this process; imports TensorFlow

TensorFlow disables oneDNN on processors without VNNI instructions, although it makes float32 about
twice as fast there (`benchmarks/results/step.md`). TensorFlow reads TF_ENABLE_ONEDNN_OPTS once, so
this module runs before it and imports only the standard library.
"""

import dataclasses
import os
import sys
import warnings

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
LIMIT = "ONEDNN_MAX_CPU_ISA"
# oneDNN's float32 kernels need both; older processors were not measured.
_NEEDED = ("avx2", "fma")
# Values of LIMIT below which oneDNN has no kernel for bfloat16.
_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What `choose` has decided.

    Attributes:
        value: what TF_ENABLE_ONEDNN_OPTS is set to; None leaves the decision to TensorFlow.
        why: a clause for people.
    """

    value: str | None
    why: str


def choose(cpuinfo="/proc/cpuinfo") -> Choice:
    """Sets TF_ENABLE_ONEDNN_OPTS for this process and its children, unless it is set.

    Warns where TensorFlow was imported first and so computes without oneDNN.

    Args:
        cpuinfo: file with the processor's instruction sets, as Linux has it.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Choice(given, f"the environment has {VARIABLE}={given}")
    lacking = _lacking(cpuinfo)
    if lacking:
        return Choice(None, f"left to TensorFlow: {lacking}")
    if "tensorflow" in sys.modules and not enabled():
        warnings.warn(
            "TensorFlow was imported before dc_tf and computes without oneDNN, which takes about "
            f"twice as long in float32 on this processor. Import dc_tf first, or set {VARIABLE}=1.",
            RuntimeWarning,
            stacklevel=3,
        )
        return Choice(None, "too late to turn it on: TensorFlow was imported before dc_tf")
    os.environ[VARIABLE] = "1"
    return Choice("1", "turned on: the processor has AVX2 and FMA")


def enabled() -> bool:
    """Whether TensorFlow computes with oneDNN in this process."""
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()


def bfloat16_fault() -> str:
    """Why bfloat16 would end this process; empty where it would not.

    TensorFlow asks the processor, not oneDNN, whether oneDNN can multiply in bfloat16. Where the
    environment keeps oneDNN from the instructions that the processor has, a product of matrices
    ends in a segmentation fault, so it cannot be tried.
    """
    limit = os.environ.get(LIMIT, "").upper()
    if limit not in _WITHOUT_BFLOAT16 or not enabled():
        return ""
    return f"{LIMIT}={limit} leaves oneDNN no bfloat16"


def name(is_enabled: bool) -> str:
    """Name of the kernels for messages."""
    return "oneDNN" if is_enabled else "TensorFlow's own"


def _lacking(cpuinfo) -> str:
    """Why oneDNN is not known to be faster here; empty if it is."""
    machine = os.uname().machine if hasattr(os, "uname") else "unknown"
    if machine != "x86_64":
        return f"the processor is {machine}"
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), None)
    except OSError:
        flags = None
    if flags is None:
        return "the processor's instruction sets cannot be read"
    lacking = [flag.upper() for flag in _NEEDED if flag not in flags]
    return f"the processor has no {' and no '.join(lacking)}" if lacking else ""
