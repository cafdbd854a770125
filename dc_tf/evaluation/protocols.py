"""Which settings a task runs with: the paper's, small ones, or those of a file; and why.

    asked = read(module, "linear_probe", given={"epochs": 3}, files=[], wanted="auto")
    chosen = asked.choose(network={"width": 0.25, "resolution": 48}, images=1334)
    chosen.protocol, chosen.name, chosen.reason      # Protocol(epochs=3, ...), "small", "the ..."

A task's module has a dataclass `Protocol`. Where the paper has settings for the task, these are
its defaults. Then the module also has `SMALL`, the {setting: value} in which its small protocol
differs, and `paper_variant(given)`: for what was given, the {setting: value} in which the paper's
differ from the defaults, and the number of images that the paper has. A task without `SMALL` has
one protocol.

`auto` takes the paper's protocol for a network of at least half of the paper's width and of 158
pixels, half of the paper's 224 x 224, on at least a tenth of the paper's images (retrieval: on any
number). These are facts of what is measured, not of the machine, so the same command does the same
everywhere. A file of settings precedes `auto`: settings that it leaves out have the protocol's
defaults, or the values of the protocol that it names with `protocol: small`.
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
        name: "paper", "small", "file"; "" where the task has one protocol only.
        reason: why it is this one, a clause for a sentence; "" where there was no choice.
        alternative: the flag that takes the other one, as the end of a sentence; "" without.
    """

    protocol: object
    name: str = ""
    reason: str = ""
    alternative: str = ""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked for, before the network and the data are known.

    Attributes:
        module: of the task.
        task: its name.
        given: {setting: value} of files and overrides.
        files: names of the files.
        named: "paper" or "small" where a flag or a file says so; else "".
        under: settings for tasks that have such ones, under the given ones.
    """

    module: object
    task: str
    given: dict
    files: tuple[str, ...] = ()
    named: str = ""
    under: dict = dataclasses.field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether network and data decide."""
        return _has_two(self.module) and not self.named and not self.files

    def choose(self, network=None, images=0) -> Chosen:
        """The protocol.

        Args:
            network: settings of the network, with "width" and "resolution"; None if not known.
            images: to learn from, or to search in.

        Raises:
            ConfigError: a setting that cannot work.
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
    """What was asked for, checked as far as it can be without network and data.

    Args:
        module: of the task.
        given: {setting: value} of files and overrides, which may hold `protocol`.
        files: paths of the files among them.
        wanted: "paper", "small" or "auto".
        under: settings for tasks that have such ones, under those given.

    Raises:
        ConfigError: a protocol that the task does not have, or that a file says differently; an
            unknown setting, or a value that cannot work.
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
    # Whatever it will be: what was given must fit, and is refused before anything is opened.
    asked.choose()
    return asked


def _has_two(module):
    return hasattr(module, "SMALL")


def _by_size(network, images, paper_images):
    """(name, reason) by what the network and the data are."""
    network = network or {"width": PAPER_WIDTH, "resolution": PAPER_RESOLUTION}
    width, resolution = network["width"], network["resolution"]
    if width < _LEAST_WIDTH or resolution < _LEAST_RESOLUTION:
        return SMALL, (
            f"the network has {resolution} pixels and {width:g} of VGG-16's width; the paper's has "
            f"{PAPER_RESOLUTION} and {PAPER_WIDTH:g}"
        )
    if images < _LEAST_SHARE * paper_images:
        return SMALL, f"there are {images:,} images; the paper has {paper_images:,}"
    what = f"a network of {resolution} pixels and {width:g} of VGG-16's width"
    return PAPER, f"{what} on {images:,} images" if paper_images else what
