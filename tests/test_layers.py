import ast
import functools
import pathlib
import tempfile

import tensorflow as tf

import dc_tf

PACKAGE = pathlib.Path(dc_tf.__file__).parent

# Top to bottom, as in BUILD.md. A module imports its own part and those of lower lines; parts of
# one line do not know each other.
LAYERS = [
    {"__main__"},
    {"commands"},
    {"api"},
    {"sweep"},
    {"report"},
    {"classification"},
    {"curation"},
    {"evaluation", "doctor"},
    {"training"},
    {"planning"},
    {"exporting", "networks"},
    {"clustering", "data"},
    {"precision"},
    {"progress"},
    {"distributed"},
    {"run_dir"},
    {"experiment"},
    {"nn"},
    {"settings"},
    {"kmeans_options"},
    {"hyperparams"},
    {"atomic", "record_batches", "strict_yaml", "text_files"},
    {"kernels", "keras", "memory", "run_log", "seeds", "shipped", "versions"},
    {"limits", "paths"},
    {"errors"},
]

# Narrower than their layer: the algorithms, which must be usable without the rest.
ONLY = {
    "clustering": {
        "atomic",
        "clustering",
        "distributed",
        "errors",
        "kmeans_options",
        "memory",
        "paths",
        "precision",
        "progress",
        "record_batches",
    },
    "data": {
        "atomic",
        "data",
        "distributed",
        "errors",
        "paths",
        "progress",
        "record_batches",
        "seeds",
        "text_files",
    },
    "nn": {"nn", "keras", "errors"},
}


class LayersTest(tf.test.TestCase):
    def test_imports_point_downward(self):
        rank = {part: number for number, parts in enumerate(LAYERS) for part in parts}
        for module, part in modules():
            self.assertIn(part, rank, f"{module} belongs to no layer; give it a place in LAYERS")
            for imported in imports(module):
                if imported != part:
                    self.assertGreater(rank[imported], rank[part], f"{module} imports {imported}")

    def test_algorithms_stand_alone(self):
        for module, part in modules():
            if part in ONLY:
                self.assertContainsSubset(imports(module), ONLY[part], module)

    def test_planning_and_doctor_do_without_the_trainer(self):
        for module, part in modules():
            if part in ("planning", "doctor"):
                found = reached(dotted(module))
                trainer = {f"dc_tf.training.{name}" for name in ("trainer", "step.learner", "loop")}
                self.assertEmpty(found & trainer, module)

    def test_no_module_imports_itself_in_a_circle(self):
        for module, _ in modules():
            for imported in direct(dotted(module)):
                self.assertNotIn(dotted(module), reached(imported), f"{module}, {imported}")

    def test_what_commands_use_before_tensorflow_does_not_import_it(self):
        self.assertEmpty(set(imported_names(PACKAGE / "distributed" / "__init__.py")))
        for name in ("heartbeat", "stop_request", "task"):
            found = set(imported_names(PACKAGE / "distributed" / f"{name}.py"))
            ours = {full for full in found if full.startswith("dc_tf")}
            self.assertLessEqual(ours, {"dc_tf.errors.ConfigError", "dc_tf.errors.Preempted"}, name)
            self.assertNotIn("tensorflow", {full.partition(".")[0] for full in found}, name)

    def test_no_room_imports_itself_in_a_circle(self):
        known = {}
        for module, _ in modules():
            named = {room(imported) for imported in direct(dotted(module))}
            known.setdefault(room(dotted(module)), set()).update(named)
        for one in known:
            found, new = set(), known[one] - {one}
            while new:
                found |= new
                new = set().union(*(known[other] for other in new)) - found
            self.assertNotIn(one, found)

    def test_every_room_says_what_it_is(self):
        for path in sorted(PACKAGE.rglob("__init__.py")):
            self.assertTrue(ast.get_docstring(ast.parse(path.read_text())), path)

    def test_rooms_stay_small(self):
        for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE / "commands"}:
            found = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            self.assertLess(len(found), 25, f"divide {folder.name}, as BUILD.md has it")

    def test_only_distributed_knows_tf_config(self):
        for module, part in modules():
            if part != "distributed":
                # As code, that is a string of its own: texts may explain where it comes from.
                self.assertNotIn("TF_CONFIG", strings(module), module)

    def test_yaml_has_one_loader(self):
        for folder in (PACKAGE, PACKAGE.parent / "benchmarks"):
            for path in folder.rglob("*.py"):
                if path.name != "strict_yaml.py":
                    self.assertNotRegex(path.read_text(), r"\byaml\.\w*load", str(path))

    def test_keras_has_one_import_point(self):
        for module, part in modules():
            if part != "keras":
                self.assertEmpty(keras_uses(module), module)

    def test_the_package_itself_imports_nothing_that_takes_time(self):
        tree = ast.parse((PACKAGE / "__init__.py").read_text())
        found = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, IMPORTS)]
        self.assertEqual(found, ["import importlib", "import os", "from dc_tf import kernels"])
        tree = ast.parse((PACKAGE / "kernels.py").read_text())
        found = {ast.unparse(node) for node in tree.body if isinstance(node, IMPORTS)}
        self.assertEqual(found, {f"import {n}" for n in ("dataclasses", "os", "sys", "warnings")})


class WalkTest(tf.test.TestCase):
    """The walk itself sees what it should."""

    def test_every_way_of_importing_is_seen(self):
        source = "import dc_tf.nn.heads\nfrom dc_tf import errors, keras\n"
        source += "def f():\n    from dc_tf.data.storage.reader import RowReader\nimport numpy"
        path = self.module(source)
        self.assertEqual(imports(path), {"nn", "errors", "keras", "data"})

    def test_every_way_to_keras_is_seen(self):
        lines = ["import keras", "import tf_keras as k", "from tensorflow import keras"]
        lines += ["from tensorflow.keras import layers", "import tensorflow as tf; tf.keras.Model"]
        for line in lines:
            self.assertLen(keras_uses(self.module(line)), 1, line)
        self.assertEmpty(keras_uses(self.module("from dc_tf import keras")))

    def module(self, source):
        path = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()), "module.py")
        path.write_text(source)
        return path


IMPORTS = (ast.Import, ast.ImportFrom)


@functools.cache
def modules():
    """(path, part) of each: part is the name under dc_tf, 'data' for all of dc_tf/data."""
    paths = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})
    return [(path, path.relative_to(PACKAGE).with_suffix("").parts[0]) for path in paths]


def dotted(path):
    """ "dc_tf.nn.heads" of its path."""
    return ".".join(["dc_tf", *path.relative_to(PACKAGE).with_suffix("").parts])


def room(module):
    """ "dc_tf.data.sources" of a module in it; a module outside of rooms stands for itself."""
    return ".".join(module.split(".")[:3])


@functools.cache
def direct(module):
    """Modules of dc_tf, without packages, that a module imports anywhere in it."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    names = {name for name in imported_names(path) if name.startswith("dc_tf.")}
    # "dc_tf.nn.heads.LinearHead" names a thing in a module, "dc_tf.nn.heads" the module.
    both = {*names, *(name.rpartition(".")[0] for name in names)}
    known = {dotted(path) for path, _ in modules()}
    return both & known


@functools.cache
def reached(module):
    """Modules that a module imports, directly or through others."""
    found, new = set(), {module}
    while new:
        new = set().union(*map(direct, new)) - found
        found |= new
    return frozenset(found)


@functools.cache
def imported_names(path):
    """Full dotted names of all that a module imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where they lead"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def imports(path):
    """The parts of dc_tf that a module imports: set of str."""
    names = [name.split(".") for name in imported_names(path)]
    return {name[1] for name in names if name[0] == "dc_tf" and len(name) > 1} - {"__version__"}


def strings(path):
    """All string constants of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant)}


def keras_uses(path):
    """Ways to Keras past dc_tf/keras.py: imports of it, and `tf.keras`."""
    names = {".".join(name.split(".")[:2]) for name in imported_names(path)}
    roots = {"keras", "tf_keras"}
    found = {name for name in names if name.split(".")[0] in roots or name == "tensorflow.keras"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "keras":
            if isinstance(node.value, ast.Name) and node.value.id in ("tf", "tensorflow"):
                found.add("tf.keras")
    return found


if __name__ == "__main__":
    tf.test.main()
