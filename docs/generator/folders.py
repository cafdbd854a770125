"""What is in a run folder."""

import ast

from generator.docstrings import docstring_markdown
from generator.markdown import paragraph, sentence, table
from generator.source import parsed

_RUN_METHODS = {"log": (0,), "clustering": (1, 0), "embeddings": ("fc7",), "features": (0,)}


def run_folder() -> str:
    """Every path of a run folder."""
    from dc_tf.run_dir import RunDir

    run = RunDir("/RUN")
    rows = []
    for name, member in vars(RunDir).items():
        if isinstance(member, property):
            path, about = getattr(run, name), member.__doc__
        elif name in _RUN_METHODS:
            path, about = getattr(run, name)(*_RUN_METHODS[name]), member.__doc__
        else:
            continue
        rows.append((f"`{path.removeprefix('/RUN/')}`", sentence(paragraph(about or ""))))
    return table(("path", "what it holds"), sorted(rows))


def checkpoint() -> str:
    """The files of a checkpoint."""
    return docstring_markdown(ast.get_docstring(parsed("dc_tf.training.checkpoint")))


def centroids() -> str:
    """The files that are kept of a clustering."""
    return docstring_markdown(ast.get_docstring(parsed("dc_tf.clustering.kept_clustering")))
