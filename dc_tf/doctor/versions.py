"""Checks installed versions against the ranges of `setup.py`.

check(report)
installed()   # {"python": "3.11.7", "tensorflow": "2.20.0", ...}
"""

import ast
import importlib.metadata
import pathlib
import platform
import sys

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import dc_tf

# Always printed; other packages only if their version does not fit.
SHOWN = ("tensorflow", "tf-keras", "tf-models-official", "numpy")
# These are released together; a stack has one release of all.
STACK = ("tensorflow", "tf-keras", "tf-models-official")
ADDONS = "tensorflow-addons"
FAISS = ("faiss-cpu", "faiss-gpu")
_REMEDY = "install with the tested versions: . launch/environment.sh"


def check(report) -> None:
    """Reports Python, the required packages, the stack that they are of, and faiss."""
    python, wanted = requirements()
    found = platform.python_version()
    if found in SpecifierSet(python):
        report.ok("python", f"{found} ({python})")
    else:
        report.fail("python", f"{found}, but {python} is required", _REMEDY)
    for requirement in wanted:
        _check_package(report, requirement)
    _check_stack(report)
    _check_faiss(report)


def requirements() -> tuple[str, list[Requirement]]:
    """(range of Python versions, requirements) of the source or the installed package."""
    setup = pathlib.Path(dc_tf.__file__).parents[1] / "setup.py"
    if setup.exists():
        return _of_source(setup.read_text())
    metadata = importlib.metadata.metadata("dc_tf")
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    return metadata["Requires-Python"], [r for r in wanted if "extra" not in str(r.marker)]


def installed() -> dict[str, str]:
    """Versions that must be the same on all workers."""
    names = (*SHOWN, ADDONS, *FAISS)
    versions = {name: _version(name) for name in names}
    own = {"dc_tf": dc_tf.__version__, "python": ".".join(map(str, sys.version_info[:2]))}
    return own | {name: version for name, version in versions.items() if version}


def _check_package(report, requirement):
    version = _version(requirement.name)
    if version is None:
        report.fail(requirement.name, f"is missing, {requirement} is required", _REMEDY)
    elif version not in requirement.specifier:
        report.fail(requirement.name, f"{version}, but {requirement} is required", _REMEDY)
    elif requirement.name in SHOWN:
        report.ok(requirement.name, f"{version} ({_of_range(requirement) or 'any'})")


def _of_range(requirement):
    """Its least and its first too large version, without those that are left out."""
    return ",".join(str(part) for part in requirement.specifier if part.operator != "!=")


def _check_stack(report):
    """Reports which of the two stacks is installed, or that packages of both are."""
    found = {name: version for name in STACK if (version := _version(name))}
    releases = {".".join(version.split(".")[:2]) for version in found.values()}
    addons = _version(ADDONS)
    if len(releases) > 1 or (addons and "2.15" not in releases):
        mixed = found | ({ADDONS: addons} if addons else {})
        report.fail(
            "stack",
            f"{', '.join(f'{name} {version}' for name, version in mixed.items())} are of "
            "different releases of TensorFlow",
            _REMEDY + ", or DC_TF_STACK=tf215 with tensorflow-addons",
        )
        return
    for release in releases:
        has = f"{ADDONS} {addons}" if addons else f"no {ADDONS}"
        report.ok("stack", f"TensorFlow {release}, {has}")


def _check_faiss(report):
    found = {name: _version(name) for name in FAISS}
    found = {name: version for name, version in found.items() if version}
    if found:
        report.ok("faiss", ", ".join(f"{name} {version}" for name, version in found.items()))
    else:
        report.warn(
            "faiss",
            "is missing: no k-NN evaluation, no faiss backend of k-means",
            "install the extra cpu or gpu",
        )


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _of_source(text):
    """From the call of `setup` in a setup.py, which is parsed and not run."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    keywords = {word.arg: word.value for call in calls for word in call.keywords}
    wanted = ast.literal_eval(keywords["install_requires"])
    return ast.literal_eval(keywords["python_requires"]), [Requirement(text) for text in wanted]
