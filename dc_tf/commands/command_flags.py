"""The flags of a command, defined in one way.

    FLAGS = CommandFlags()
    K = FLAGS.integer("k", None, "Number of clusters.", lower_bound=1, required=True)
    K.value                                  # after the command line is parsed

Every method takes the name, the default and the help text, then what the `DEFINE_` function of absl
of the same name takes, and returns its FlagHolder.
"""

from absl import flags


class CommandFlags(flags.FlagValues):
    """The flags of one command, separate from those of other commands and absl's global ones."""

    def string(self, name, default, text, **options) -> flags.FlagHolder:
        return flags.DEFINE_string(name, default, text, flag_values=self, **options)

    def integer(self, name, default, text, **options) -> flags.FlagHolder:
        """Options: lower_bound, upper_bound, required."""
        return flags.DEFINE_integer(name, default, text, flag_values=self, **options)

    def float(self, name, default, text, **options) -> flags.FlagHolder:
        """Options: lower_bound, upper_bound, required."""
        return flags.DEFINE_float(name, default, text, flag_values=self, **options)

    def bool(self, name, default, text, **options) -> flags.FlagHolder:
        return flags.DEFINE_bool(name, default, text, flag_values=self, **options)

    def enum(self, name, default, values, text, **options) -> flags.FlagHolder:
        """One of `values`, a list of str."""
        return flags.DEFINE_enum(name, default, values, text, flag_values=self, **options)

    def list(self, name, default, text, **options) -> flags.FlagHolder:
        """Comma-separated; a list of str."""
        return flags.DEFINE_list(name, default, text, flag_values=self, **options)

    def multi_string(self, name, default, text, **options) -> flags.FlagHolder:
        """May be given several times; a list of str."""
        return flags.DEFINE_multi_string(name, default, text, flag_values=self, **options)
