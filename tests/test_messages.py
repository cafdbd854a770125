"""Errors that a user can correct say what would work, not only what another library says."""

import ast
import pathlib
import unittest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "dc_tf"
OURS = ("ConfigError", "DataError")


class MessagesTest(unittest.TestCase):
    def test_no_message_ends_in_the_text_of_an_exception(self):
        trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
        # Texts of exceptions that are defined here say themselves what would work.
        own = {
            node.name
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        bare = [
            f"{path.relative_to(PACKAGE)}:{line}"
            for path, tree in trees.items()
            for line in bare_messages(tree, own)
        ]
        self.assertEqual(bare, [], "end these with what would work")

    def test_the_walk_sees_what_it_should(self):
        for body, expected in (
            ('raise DataError(f"no: {error}") from error', 1),
            ('raise ConfigError("no" f": {error!r}.")', 1),
            ('reason = str(error)\n    return DataError(f"no: {reason[0]}")', 1),
            ('raise DataError(f"no ({error}); do this.")', 0),
            ('raise DataError(f"no: {path}")', 0),
            ('logging.info(f"no: {error}")', 0),
        ):
            for kind, found in (("OSError", expected), ("(OSError, Own)", expected), ("Own", 0)):
                tree = ast.parse(f"try:\n    f()\nexcept {kind} as error:\n    {body}")
                self.assertEqual(len([*bare_messages(tree, {"Own"})]), found, body)


def bare_messages(tree, own):
    """Lines of errors whose message ends in a value of an exception that is not in `own`."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or not handler.name or kinds(handler) <= own:
            continue
        names = {handler.name}
        for node in ast.walk(handler):
            if isinstance(node, ast.Assign) and mentions(node.value, names):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        for node in ast.walk(handler):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in OURS and node.args:
                if mentions(last_value(node.args[0]), names):
                    yield node.lineno


def kinds(handler):
    """Names of the classes of a handler, without their modules."""
    found = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(one).rpartition(".")[2] for one in found}


def last_value(message):
    """What an f-string ends in, but for a full stop; None if that is text."""
    parts = getattr(message, "values", [])
    if parts and isinstance(parts[-1], ast.Constant) and parts[-1].value == ".":
        parts = parts[:-1]
    return parts[-1] if parts and isinstance(parts[-1], ast.FormattedValue) else None


def mentions(node, names):
    return node is not None and any(getattr(one, "id", None) in names for one in ast.walk(node))


if __name__ == "__main__":
    unittest.main()
