"""The flags that say which features a command works on, defined and resolved in one way.

FLAGS = CommandFlags()
SOURCE = FeatureFlags(FLAGS)          # --run, --features, --column, --data, --layer
features = SOURCE.open()              # features.open.Features
"""

import typing

from absl.flags import FlagHolder

from dc_tf.commands.flags.runs import check_given_run

if typing.TYPE_CHECKING:
    from dc_tf.curation.features.open import Features


# What --features takes, in the help of every command that has it.
FILES = "output folder of dc_tf embed, or .npy, .npz, Parquet or Arrow files"


def column_flag(flags) -> FlagHolder:
    """Defines --column, of files with vectors, and returns its FlagHolder."""
    return flags.string(
        "column",
        None,
        "With the vectors: a list column of a table, a pattern of columns of one number each "
        "('f*'), or an array of an .npz archive; not needed where there is only one.",
    )


class FeatureFlags:
    """The flags --run, --features, --column, --data and --layer of one command.

    Attributes:
        run, features, column, data, layer: their FlagHolders.
    """

    def __init__(self, flags, layer_of_run="the one that dc_tf evaluate has measured as the best"):
        """Defines them.

        Args:
            flags: CommandFlags.
            layer_of_run: what --run takes without --layer.
        """
        self.run = flags.path(
            "run",
            None,
            "Run folder: features of its own network over its data set, made if they are missing.",
        )
        self.features = flags.paths(
            "features",
            None,
            f"Without --run: {FILES} with a row for each image: a file, a pattern in "
            "quotes, or several with commas between them.",
        )
        self.column = column_flag(flags)
        self.data = flags.path(
            "data", None, "Data set folder of the features; with --run only where it was moved."
        )
        self.layer = flags.string(
            "layer",
            None,
            "conv1..conv13, fc6 or fc7 of VGG-16, conv1, block1_1..block4_2 (ResNet-50: block4_3) "
            "or pool of a ResNet; without it the only one of --features, or of --run "
            f"{layer_of_run}.",
        )

    def values(self) -> dict:
        """{argument: value} of `open_features`.

        Raises:
            ConfigError: a wrong TF_CONFIG, or --run is not the folder of a run.
        """
        check_given_run(self.run.value)
        holders = (self.run, self.features, self.column, self.data, self.layer)
        return {holder.name: holder.value for holder in holders}

    def open(self) -> "Features":
        """The features that they mean.

        Raises:
            ConfigError, DataError: as `features.open.open_features`.
        """
        from dc_tf.curation.features.open import open_features

        return open_features(**self.values())
