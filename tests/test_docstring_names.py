"""Names of the package in docstrings, as `clusters.open.Clustering`, lead somewhere."""

import ast
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A class in a module; between backticks also a module or function that is named from a folder on.
CLASS = re.compile(r"(?<![\w./-])[a-z_]\w*(?:\.\w+)*\.[A-Z]\w*[a-z]\w*")
LONG = re.compile(r"`([a-z_]\w*(?:\.[a-z_]\w*){2,})[`(]")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class DocstringNamesTest(unittest.TestCase):
    def test_names_in_docstrings_exist(self):
        modules, folders = known()
        # `keras` has the names of Keras.
        heads = {part for module in modules for part in module} - {"keras"}
        lost = []
        for path in sorted((ROOT / "dc_tf").rglob("*.py")):
            for text in docstrings(ast.parse(path.read_text())):
                names = [name for name in CLASS.findall(text) if name.split(".")[0] in heads]
                names += [name for name in LONG.findall(text) if name.split(".")[0] in folders]
                lost += [
                    f"{path.relative_to(ROOT)}: {name}"
                    for name in names
                    if not leads_somewhere(tuple(name.split(".")), modules)
                ]
        self.assertEqual(lost, [], "\n".join(["no such name in the package:", *lost]))

    def test_a_name_is_found_by_the_end_of_its_path(self):
        modules = {("dc_tf", "a", "open"): {"Thing"}, ("dc_tf", "a"): set()}
        for name in ("open.Thing", "a.open.Thing", "dc_tf.a.open.Thing", "a.open", "dc_tf.a"):
            self.assertTrue(leads_somewhere(tuple(name.split(".")), modules), name)
        for name in ("a.Thing", "open.Other", "pen.Thing", "b.open.Thing"):
            self.assertFalse(leads_somewhere(tuple(name.split(".")), modules), name)


def known():
    """({parts of a module's name: what stands in it}, names of folders)."""
    modules, folders = {}, {"dc_tf"}
    for path in (ROOT / "dc_tf").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            folders.add(parts[-1])
        names = (node for node in ast.parse(path.read_text()).body)
        modules[parts] = {name for node in names for name in defined(node)}
    return modules, folders


def defined(node):
    """Names that a statement of a module gives it."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    stored = (
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )
    return {node.name} if isinstance(node, DOCUMENTED[1:]) else set(stored)


def docstrings(tree):
    nodes = (node for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
    return [text for text in map(ast.get_docstring, nodes) if text]


def leads_somewhere(name, modules):
    """Whether a module, or something in it, has a path that ends in these parts."""
    return any(
        module[-len(name) :] == name or (module[1 - len(name) :] == name[:-1] and name[-1] in names)
        for module, names in modules.items()
    )


if __name__ == "__main__":
    unittest.main()
