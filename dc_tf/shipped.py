"""Files that come with dc_tf: its presets and its launcher.

    config_file("quickstart")            # path of configs/quickstart.yaml
    config_file("linear_probe_small")    # of configs/evaluation
    config_file("methods_small")         # of configs/sweeps
    launcher().visible_gpus()            # launch/local.py as a module

They lie at the top of the repository; a wheel carries them inside the package.
"""

import functools
import importlib.util
import os
import pathlib
import sys
import types

from dc_tf import paths
from dc_tf.errors import ConfigError

_PACKAGE = pathlib.Path(__file__).resolve().parent
# Kinds of presets: {folder in configs: command that takes them}.
KINDS = {"": "train", "evaluation": "evaluate", "sweeps": "sweep"}


def folder(name: str) -> pathlib.Path:
    """The folder "configs" or "launch": of the installed package, else of the repository."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def config_file(text) -> str:
    """The path of a configuration: `text` itself, or the file of the preset of that name.

    Args:
        text: str or PathLike. A text without folder and ending that is not a file is the name of a
            preset.

    Raises:
        ConfigError: there is no preset of that name; lists those that there are.
    """
    text = paths.expand(text)
    is_path = os.path.dirname(text) or os.path.splitext(text)[1] or os.path.isfile(text)
    if is_path:
        return text
    known = {command: presets(kind) for kind, command in KINDS.items()}
    for found in known.values():
        if text in found:
            return found[text]
    lists = [f"of {command}: {', '.join(names)}" for command, names in known.items()]
    raise ConfigError(
        f"config_file is {text!r}, which is neither a file nor a preset. Presets "
        f"{'. Presets '.join(lists)}."
    )


def presets(kind: str = "") -> dict[str, str]:
    """{name: path} of the presets of training, or of another of `KINDS`; sorted by name."""
    return {path.stem: str(path) for path in sorted((folder("configs") / kind).glob("*.yaml"))}


@functools.cache
def launcher(name: str = "local") -> types.ModuleType:
    """A program of launch/, which is in no package, as a module: "local" or "node"."""
    home = folder("launch")
    spec = importlib.util.spec_from_file_location(name, home / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(home))  # they import one another by name
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(home))
    return module
