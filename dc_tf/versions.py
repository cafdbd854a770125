"""Versions of the packages that results depend on.

installed()          # {"dc_tf": "0.1.0", "tensorflow": "2.20.0", ...}
of_tensorflow()      # "2.20.0"
"""

import importlib.metadata

import dc_tf

_PACKAGES = (
    *("tensorflow", "tf-keras", "tensorflow-addons", "numpy", "faiss-cpu", "faiss-gpu", "pillow"),
)


def installed() -> dict[str, str]:
    """{package: version} of this process, dc_tf first; what is not installed is left out."""
    found = {"dc_tf": dc_tf.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def of_tensorflow() -> str:
    """Version of TensorFlow, which is imported only if it is installed under another name."""
    version = installed().get("tensorflow")
    if version is None:
        import tensorflow as tf

        version = tf.__version__
    return version
