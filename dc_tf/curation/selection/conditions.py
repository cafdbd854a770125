"""Conditions on the label, class, source or metadata of a row.

condition = Condition.parse("meta/latitude>=48.5")
condition.holds(51.2)

A condition is a name, one of = != < <= > >=, and a value. Names are `label`, `class`, `source` and
`meta/NAME`. Numbers compare as numbers, everything else as text. Of several values, such as
hashtags, one is enough; `!=` holds where none is equal. A row without a value fulfils only `!=`.
"""

import dataclasses
import math
import operator
import re

from dc_tf.errors import ConfigError

_FORM = re.compile(r"(label|class|source|meta/[^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL)
_OPERATORS = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on one name.

    Attributes:
        name: "label", "class", "source" or "meta/NAME".
        comparison: one of = != < <= > >=.
        value: str.
    """

    name: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text) -> "Condition":
        """The condition that a text such as "meta/year>1984" means.

        Raises:
            ConfigError: it means none.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"--where={text} is not a condition; use NAME=VALUE, or one of != < <= > >= for =, "
                "with label, class, source or meta/NAME as NAME."
            )
        return cls(*match.groups())

    def holds(self, value) -> bool:
        """Whether a value fulfils it: str, number, a list of them, or None."""
        values = value if isinstance(value, list) else [] if value is None else [value]
        if self.comparison == "!=":
            return not any(self._compare(operator.eq, one) for one in values)
        return any(self._compare(_OPERATORS[self.comparison], one) for one in values)

    def _compare(self, compare, value):
        wanted, given = _number(self.value), _number(value)
        if wanted is not None and given is not None:
            return compare(given, wanted)
        if wanted is not None and compare is not operator.eq:
            return False  # text has no place among numbers
        return compare(str(value), self.value)


def _number(value):
    """A finite float, or None."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
