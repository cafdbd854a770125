import ast
import pathlib

import tensorflow as tf

import dc_tf

ROOT = pathlib.Path(dc_tf.__file__).parents[1]
# The package, and what measures, documents and launches it.
FOLDERS = ("dc_tf", "benchmarks", "docs", "launch")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class AnnotationsTest(tf.test.TestCase):
    def test_public_functions_say_what_they_return(self):
        silent = [
            f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
            for folder in FOLDERS
            for path in sorted((ROOT / folder).rglob("*.py"))
            for function in public_functions(ast.parse(path.read_text()))
            if function.returns is None
        ]
        self.assertEmpty(silent, "\n".join(["give these a return annotation:", *silent]))


def public_functions(tree):
    """Functions of a module, and methods of its public classes, whose names have no underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
            yield node


if __name__ == "__main__":
    tf.test.main()
