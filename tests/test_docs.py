"""The handbook against the code: nothing left out, no link that leads nowhere. Needs no MkDocs."""

import ast
import dataclasses
import importlib.util
import pathlib
import re
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Settings that are groups of settings.
SECTIONS = (
    *("data", "model", "stages", "watchdog", "projection"),
    *("contrast", "optimizer", "clustering", "augmentation", "views"),
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BAR = re.compile(r"(?<!\\)\|")  # that parts cells of a table
CITATION = re.compile(r"docs/reference\.md,\s+section (\d+)")


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name):
    """A page as MkDocs gets it, with its generated parts."""
    return generate.with_parts((DOCS / name).read_text(encoding="utf-8"))


def nav_files(entry):
    """Yields the files that a part of `nav` names."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_files(part)


def sources(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text(encoding="utf-8")


def keys(pattern, *functions):
    """Names that the functions of modules put into dictionaries: literal keys, and x["name"]."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob(pattern)]
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Dict):
                    found |= {k.value for k in inner.keys if isinstance(k, ast.Constant)}
                elif isinstance(inner, ast.Subscript) and isinstance(inner.ctx, ast.Store):
                    if isinstance(inner.slice, ast.Constant):
                        found.add(inner.slice.value)
    return found


def anchors(text):
    """Names of the headings of a page, as MkDocs makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


generate = load_generator()
# Found once the hook has been loaded.
docstrings = importlib.import_module("generator.docstrings")
cell = importlib.import_module("generator.markdown").cell


class HandbookTest(unittest.TestCase):
    def test_the_readme_is_short(self):
        lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        self.assertLessEqual(len(lines), 120)

    def test_every_page_is_in_the_navigation(self):
        settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
        listed = list(nav_files(settings["nav"]))
        pages = [path.relative_to(DOCS).as_posix() for path in PAGES] + list(generate.INCLUDED)
        self.assertEqual(sorted(listed), sorted(pages))

    def test_lines_of_a_table_have_as_many_cells(self):
        wrong = []
        for path in (*ROOT.glob("*.md"), *PAGES):
            cells = None
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                here = len(BAR.findall(line)) if line.startswith("|") else None
                if None not in (cells, here) and here != cells:
                    wrong.append(f"{path.name}:{number}")
                cells = here if cells is None or here is None else cells
        self.assertEqual(wrong, [])

    def test_relative_links_lead_somewhere(self):
        names = ("README.md", "BUILD.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
        for path in [*(ROOT / name for name in names), *PAGES]:
            for link in LINK.findall(generate.with_parts(path.read_text(encoding="utf-8"))):
                if "://" in link:
                    continue
                with self.subTest(page=path.relative_to(ROOT).as_posix(), link=link):
                    self.assert_leads_somewhere(path, link)

    def assert_leads_somewhere(self, path, link):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() and target.is_relative_to(DOCS):
            included = generate.INCLUDED.get(target.relative_to(DOCS).as_posix())
            target = ROOT / included if included else target
        self.assertTrue(target.exists())
        if anchor:
            text = generate.with_parts(target.read_text(encoding="utf-8"))
            self.assertIn(anchor, anchors(text))

    def test_links_of_included_pages_lead_to_pages(self):
        text = "[a](docs/own-data.md#convert) [b](setup.py) [c](https://example.org) [d](BUILD.md)"
        found = generate.with_site_links(text, "contributing.md", "CONTRIBUTING.md")
        self.assertEqual(found, "[a](own-data.md#convert) b [c](https://example.org) d")
        found = generate.with_site_links("[a](x.md)", "results/gpu.md", "benchmarks/results/gpu.md")
        self.assertEqual(found, "a")
        page, source = "results/gpu.md", "benchmarks/results/gpu.md"
        found = generate.with_site_links("[a](kmeans.md)", page, source)
        self.assertEqual(found, "[a](../results/kmeans.md)")


class ReferenceTest(unittest.TestCase):
    def test_every_command_and_flag_is_there(self):
        from dc_tf.commands.main import COMMANDS

        text = page("commands.md")
        for command, path in COMMANDS.items():
            section = text.split(f"\n## {command}\n")[1].split("\n## ")[0]
            module = importlib.import_module(path)
            flags = generate.commands.flag_names(module) or [
                o[2:] for o in generate.commands.options("local")
            ]
            self.assertTrue(flags)
            for flag in flags:
                self.assertRegex(section, rf"\| `--(\[no\])?{flag}` \|", command)
        for name in ("quickstart", "local"):
            for option in generate.commands.options(name):
                self.assertIn(f"| `{option}` |", text.split("\n## launch/quickstart.sh\n")[1])

    def test_every_setting_is_there_and_described(self):
        from dc_tf import experiment

        text = page("settings.md")
        stage = experiment.Stage()
        for prefix, config in {
            "": experiment.Experiment(),
            "data.": experiment.Data(),
            "model.": experiment.Model(),
            "watchdog.": experiment.Watchdog(),
            "stages[i].": stage,
            "stages[i].projection.": stage.projection,
            "stages[i].contrast.": stage.contrast,
            "stages[i].optimizer.": stage.optimizer,
            "stages[i].clustering.": stage.clustering,
            "stages[i].augmentation.": stage.augmentation,
            "stages[i].views.": stage.views,
        }.items():
            for field in dataclasses.fields(config):
                if field.name not in SECTIONS:
                    name = re.escape(f"{prefix}{field.name}")
                    self.assertRegex(text, rf"(?m)^\| `{name}` \| `[^|]*` \| \S.*\|$")

    def test_every_setting_of_every_task_is_there_and_described(self):
        text = page("evaluation-settings.md")
        for task, module in generate.settings.tasks().items():
            section = text.split(f"\n## {task}\n")[1].split("\n## ")[0]
            fields, _ = generate.settings.protocol(module)
            self.assertTrue(fields)
            for field in fields:
                self.assertRegex(section, rf"(?m)^\| `{field}` \|.*\| \S[^|]*\|$", task)

    def test_the_defaults_of_tasks_are_those_of_the_code(self):
        fields, _ = generate.settings.protocol("dc_tf.evaluation.frozen.linear_probe")
        self.assertEqual(fields["epochs"], "100")
        self.assertEqual(fields["paper"], "auto")  # a constant of another module
        self.assertEqual(fields["augment"], "true")
        fields, _ = generate.settings.protocol("dc_tf.evaluation.finetune.task")
        self.assertEqual(fields["drops"], "[30, 60, 90]")

    def test_every_path_of_a_run_is_there_and_described(self):
        from dc_tf.run_dir import RunDir

        text = page("run-folder.md")
        names = [name for name, member in vars(RunDir).items() if isinstance(member, property)]
        self.assertIn("metrics", names)
        for name in names:
            path = getattr(RunDir("/run"), name).removeprefix("/run/")
            self.assertRegex(text, rf"(?m)^\| `{re.escape(path)}` \| \S.*\|$")

    def test_every_shipped_configuration_is_there_and_described(self):
        text = page("settings.md")
        for path in (ROOT / "configs").rglob("*.yaml"):
            name = re.escape(path.relative_to(ROOT).as_posix())
            self.assertRegex(text, rf"(?m)^\| `{name}` \| \S.*\|$")

    def test_every_metric_is_there(self):
        text, missing = page("metrics.md"), []
        for pattern, *functions in (
            ("dc_tf/training/step/step_metrics.py", "mean_metrics"),
            ("dc_tf/training/trainer.py", "train", "train_epoch"),
            ("dc_tf/training/reassign.py", "describe", "_report"),
            ("dc_tf/training/loop.py", "result"),
            ("dc_tf/clustering/statistics.py", "count_statistics"),
            ("dc_tf/clustering/hierarchy.py", "_summary"),
            ("dc_tf/clustering/job/*.py", "_about"),
            ("dc_tf/c*/**/*.py", "_settings"),
            ("dc_tf/evaluation/run.py", "_described"),
        ):
            names = keys(pattern, *functions)
            self.assertTrue(names, pattern)
            # A key of `versions` is a package.
            missing += [name for name in names - {"dc_tf", "tensorflow"} if f"`{name}`" not in text]
        self.assertEqual(missing, [])

    def test_every_function_of_the_api_is_there(self):
        text = page("python-api.md")
        functions = generate.api.api_functions()
        self.assertTrue(functions)
        for name, node in functions.items():
            section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
            for argument in [*node.args.args, *node.args.kwonlyargs]:
                self.assertIn(f"- `{argument.arg}`: ", section, name)

    def test_sections_of_facts_that_modules_cite_exist(self):
        sections = set(re.findall(r"(?m)^## (\d+)\. ", (DOCS / "reference.md").read_text()))
        cited = {
            number for _, text in sources("dc_tf", "tests") for number in CITATION.findall(text)
        }
        self.assertIn("5", cited)
        self.assertLessEqual(cited, sections)


class DocstringTest(unittest.TestCase):
    def test_an_example_becomes_code(self):
        text = "Does it.\n\n    dc_tf x --a=1\n\nFoo *bar*."
        expected = "Does it.\n\n```\ndc_tf x --a=1\n```\n\nFoo \\*bar\\*."
        self.assertEqual(docstrings.docstring_markdown(text), expected)

    def test_attributes_are_described_by_name(self):
        text = "Head.\n\nAttributes:\n    a, b: of both,\n        also here.\n    c: other."
        both = "of both, also here."
        self.assertEqual(docstrings.described(text), {"a": both, "b": both, "c": "other."})

    def test_a_bar_does_not_end_a_cell(self):
        self.assertEqual(cell("k-means|| or `a|b`"), "k-means\\|\\| or `a\\|b`")


if __name__ == "__main__":
    unittest.main()
