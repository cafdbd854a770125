"""The flags of a command, defined in one way.

    FLAGS = CommandFlags()
    K = FLAGS.integer("k", None, "Number of clusters.", lower_bound=1, required=True)
    OUTPUT = FLAGS.path("output", None, "Folder.")
    K.value                                  # after the command line is parsed

Every method takes the name, the default and the help text, then what the `DEFINE_` function of absl
of the same name takes, and returns its FlagHolder. Numbers are checked against what their type can
hold: 32 bits for integers, finite values up to 1e9 for floats, unless a bound says otherwise.
"""

import math

from absl import flags

from dc_tf import paths
from dc_tf.limits import INT_LIMIT, LONGEST_S

_FLOAT_LIMIT = LONGEST_S


class CommandFlags(flags.FlagValues):
    """The flags of one command, separate from those of other commands and absl's global ones."""

    def string(self, name, default, text, **options) -> flags.FlagHolder:
        return flags.DEFINE_string(name, default, text, flag_values=self, **options)

    def path(self, name, default, text, **options) -> flags.FlagHolder:
        """A path or pattern, with `~` expanded (`paths.expand`)."""
        return self._define(PathParser(), name, default, text, **options)

    def paths(self, name, default, text, **options) -> flags.FlagHolder:
        """Comma-separated paths or patterns, in one str, each with `~` expanded."""
        return self._define(PathListParser(), name, default, text, **options)

    def multi_path(self, name, default, text, **options) -> flags.FlagHolder:
        """A path that may be given several times; a list of str."""
        serializer = flags.ArgumentSerializer()
        return flags.DEFINE_multi(
            PathParser(), serializer, name, default, text, flag_values=self, **options
        )

    def integer(
        self, name, default, text, lower_bound=-INT_LIMIT - 1, upper_bound=INT_LIMIT, **options
    ) -> flags.FlagHolder:
        """A whole number; options: required."""
        parser = WholeParser(lower_bound, upper_bound)
        return self._define(parser, name, default, text, **options)

    def float(
        self, name, default, text, lower_bound=-_FLOAT_LIMIT, upper_bound=_FLOAT_LIMIT, **options
    ) -> flags.FlagHolder:
        """A finite number; options: required."""
        parser = FiniteParser(lower_bound, upper_bound)
        return self._define(parser, name, default, text, **options)

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

    def _define(self, parser, name, default, text, **options):
        serializer = flags.ArgumentSerializer()
        return flags.DEFINE(
            parser, name, default, text, flag_values=self, serializer=serializer, **options
        )


class PathParser(flags.ArgumentParser):
    """Parses a path by `paths.expand`."""

    syntactic_help = "a path"

    def parse(self, argument) -> str:
        return paths.expand(argument)

    def flag_type(self) -> str:
        return "path"


class PathListParser(PathParser):
    """Parses comma-separated paths by `paths.expand_all`."""

    syntactic_help = "comma-separated paths"

    def parse(self, argument) -> str:
        return paths.expand_all(argument)


class WholeParser(flags.IntegerParser):
    """Parses an integer inside its bounds."""

    def parse(self, argument) -> int:
        bounds = f"use a whole number from {self.lower_bound} to {self.upper_bound}"
        try:
            value = self.convert(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(bounds) from error
        if self.is_outside_bounds(value):
            raise ValueError(bounds)
        return value


class FiniteParser(flags.FloatParser):
    """Parses a float inside its bounds, so neither inf nor nan."""

    def parse(self, argument) -> float:
        bounds = f"use a number from {self.lower_bound:g} to {self.upper_bound:g}"
        try:
            value = self.convert(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(bounds) from error
        if not math.isfinite(value) or self.is_outside_bounds(value):
            raise ValueError(bounds)
        return value
