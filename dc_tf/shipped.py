"""Files that come with dc_tf: its presets and its launcher.

    config_file("quickstart")            # path of configs/quickstart.yaml
    config_file("linear_probe_small")    # of configs/evaluation
    folder("launch") / "local.py"

They lie at the top of the repository; a wheel carries them inside the package.
"""

import os
import pathlib

from dc_tf import paths
from dc_tf.errors import ConfigError

_PACKAGE = pathlib.Path(__file__).resolve().parent
_EVALUATION = "evaluation"


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
    training, evaluation = presets(), presets(_EVALUATION)
    found = training.get(text) or evaluation.get(text)
    if found is None:
        raise ConfigError(
            f"config_file is {text!r}, which is neither a file nor a preset. Presets of train: "
            f"{', '.join(training)}. Of evaluate: {', '.join(evaluation)}."
        )
    return found


def presets(kind: str = "") -> dict[str, str]:
    """{name: path} of the presets of training, or of those of "evaluation"; sorted by name."""
    return {path.stem: str(path) for path in sorted((folder("configs") / kind).glob("*.yaml"))}
