"""Chooses a task's settings (the paper's, small ones, or those of a file) and says why.

    asked = read(module, "linear_probe", given={"epochs": 3}, files=[], wanted="auto")
    chosen = asked.choose(network={"width": 0.25, "resolution": 48}, images=1334)
    chosen.protocol, chosen.name, chosen.reason      # Protocol(epochs=3, ...), "small", "the ..."

A task's module has a dataclass `Protocol`, whose defaults are the paper's settings if the paper has
the task. Such a module also has `SMALL`, the {setting: value} in which the small protocol differs
from the defaults, and `paper_variant(given)`, which returns, for the given settings, the
{setting: value} in which the paper's protocol differs from the defaults, and the paper's number of
images. A task without `SMALL` has a single protocol.

`auto` selects the paper's protocol for a network of at least half the paper's width and 158 pixels
(half the area of 224 x 224) on at least a tenth of the paper's images (retrieval: any number). The
choice depends on the network and the data, not on the machine, so a command has the same settings
everywhere. A file of settings takes precedence over `auto`: settings missing from the file have the
protocol's defaults, or the values of the protocol that the file names with `protocol: small`.
"""

import dataclasses
import math
import os

from dc_tf import settings
from dc_tf.errors import ConfigError

AUTO, PAPER, SMALL = "auto", "paper", "small"
FROM_FILE = "file"
NAMES = (PAPER, SMALL, AUTO)
PAPER_WIDTH, PAPER_RESOLUTION = 1.0, 224
_LEAST_WIDTH = PAPER_WIDTH / 2
_LEAST_RESOLUTION = math.floor(PAPER_RESOLUTION / math.sqrt(2))
_LEAST_SHARE = 0.1  # of the paper's images
_ALTERNATIVE = {
    PAPER: "; --protocol=small takes a short one",
    SMALL: "; --protocol=paper takes the paper's settings",
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The settings that a task runs with.

    Attributes:
        protocol: the task's Protocol.
        name: "paper", "small" or "file"; "" if the task has a single protocol.
        reason: why it was chosen, as a clause; "" if there was no choice.
        alternative: the flag that selects the other one, as the end of a sentence; "" if none.
    """

    protocol: object
    name: str = ""
    reason: str = ""
    alternative: str = ""


@dataclasses.dataclass(frozen=True)
class Asked:
    """The settings given by the user, before the network and the data are known.

    Attributes:
        module: the task's module.
        task: the task's name.
        given: {setting: value} from files and overrides.
        files: names of the files.
        named: "paper" or "small" if a flag or a file names it, else "".
        under: settings that apply if the task has them; those in `given` take precedence.
    """

    module: object
    task: str
    given: dict
    files: tuple[str, ...] = ()
    named: str = ""
    under: dict = dataclasses.field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether the choice depends on the network and the data."""
        return _has_two(self.module) and not self.named and not self.files

    def choose(self, network=None, images=0) -> Chosen:
        """Chooses the protocol.

        Args:
            network: settings of the network, with "width" and "resolution"; None if unknown, {} of
                one of another program.
            images: number of training images, or of database images for retrieval.

        Raises:
            ConfigError: a setting has an invalid value.
        """
        files = ", ".join(os.path.basename(path) for path in self.files)
        if not _has_two(self.module):
            return Chosen(self._built(""), reason=f"settings of {files}" if files else "")
        if self.named:
            reason = f"{files} asks for it" if self.files else "as asked for"
            return Chosen(self._built(self.named), self.named, reason)
        if self.files:
            return Chosen(self._built(""), FROM_FILE, files)
        name, reason = _by_size(network, images, self.module.paper_variant(self.given)[1])
        return Chosen(self._built(name), name, reason, _ALTERNATIVE[name])

    def _built(self, name):
        base = {}
        if name == SMALL:
            base = self.module.SMALL
        elif name == PAPER:
            base = self.module.paper_variant(self.given)[0]
        return settings.build(self.module.Protocol, self.under | dict(base) | self.given)


def read(module, task: str, given: dict, files=(), wanted=AUTO, **under) -> Asked:
    """Checks the given settings as far as possible without the network and the data.

    Args:
        module: the task's module.
        task: the task's name.
        given: {setting: value} from files and overrides, which may include `protocol`.
        files: paths of the files that settings come from.
        wanted: "paper", "small" or "auto".
        under: settings that apply if the task has them; those in `given` take precedence.

    Raises:
        ConfigError: a protocol that the task does not have or that contradicts the file's, an
            unknown setting, or an invalid value.
    """
    given = dict(given)
    in_file = given.pop("protocol", "")
    for source, name in (("--protocol", wanted), ("the setting protocol", in_file or AUTO)):
        if name not in NAMES:
            raise ConfigError(f"{source} is {name!r}; use {', '.join(NAMES)}.")
        if name != AUTO and not _has_two(module):
            raise ConfigError(
                f"{source} is {name}, but {task} has one protocol only; leave it out, and change "
                "settings with --params_override."
            )
    named = [name for name in (wanted, in_file) if name and name != AUTO]
    if len(set(named)) > 1:
        raise ConfigError(
            f"--protocol is {wanted}, but {', '.join(files) or 'a setting'} asks for {in_file}; "
            "leave one of them out."
        )
    names = {field.name for field in dataclasses.fields(module.Protocol)}
    under = {name: value for name, value in under.items() if name in names}
    asked = Asked(module, task, given, tuple(files), named[0] if named else "", under)
    # Reject invalid settings before anything is opened.
    asked.choose()
    return asked


def _has_two(module):
    return hasattr(module, "SMALL")


def _by_size(network, images, paper_images):
    """(name, reason), by the size of the network and of the data."""
    known = {"width": PAPER_WIDTH, "resolution": PAPER_RESOLUTION} | (network or {})
    width, resolution = known["width"], known["resolution"]
    full = "VGG-16's" if "fc" in known or "stem" not in known else "a ResNet's"
    if width < _LEAST_WIDTH or resolution < _LEAST_RESOLUTION:
        return SMALL, (
            f"the network has {resolution} pixels and {width:g} of {full} width; the paper's has "
            f"{PAPER_RESOLUTION} and {PAPER_WIDTH:g}"
        )
    if images < _LEAST_SHARE * paper_images:
        return SMALL, f"there are {images:,} images; the paper has {paper_images:,}"
    what = f"a network of {resolution} pixels and {width:g} of {full} width"
    if network == {}:
        what = "a network of another program"
    return PAPER, f"{what} on {images:,} images" if paper_images else what
