"""Compares dc_tf with SimCLR, SwAV and DINO of `lightly` at an equal budget, over seeds.

    python benchmarks/peers.py --train=DATA/cifar10_train --test=DATA/cifar10_test \\
        --workdir=PEERS --images=1000000 --output=PEERS/peers

Rows are those of `--rows`. A peer has the trunk and the smallest crop of `--config`, or of its own
`base`; every row has the data set and one budget: `--images` views through the network, or
`--seconds` of training. Peers stop when it is used; runs of dc_tf, a sweep, have as many whole
epochs as fit, for seconds by a speed measured before. Weights of peers are imported with
`dc_tf import_torch`, and all rows are measured with the same calls of `dc_tf evaluate`. An
interrupted call resumes. Writes OUTPUT.json and OUTPUT.md.

Peers need the extra `peers`; `--peers_python` names an environment that has it.
"""

import json
import os
import sys

import peer_rows
from absl import app, flags
from peer_budget import Budget

from dc_tf import strict_yaml, text_files
from dc_tf.atomic import make_folder, write_text
from dc_tf.errors import ConfigError, DataError
from dc_tf.sweep.results import rows_of, spread
from dc_tf.sweep.tables import markdown, tables

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Data set that is learned from, with labels.", required=True)
flags.DEFINE_string("test", None, "Data set that is measured on.", required=True)
flags.DEFINE_string("config", "cifar10_small", "Base of the rows that name none.")
flags.DEFINE_string("rows", "benchmarks/peers.yaml", "{name: row}; the file explains them.")
flags.DEFINE_list("only", [], "Names of rows; all by default.")
flags.DEFINE_string("workdir", None, "Folder for the runs and their results.", required=True)
flags.DEFINE_string("output", None, "Results: OUTPUT.json and OUTPUT.md.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the experiments.")
flags.DEFINE_float("seconds", 0.0, "Budget: seconds of training.", lower_bound=0)
flags.DEFINE_integer("images", 0, "Budget: views through the network.", lower_bound=0)
flags.DEFINE_string("peers_python", sys.executable, "Python that has the extra `peers`.")
flags.DEFINE_enum("peers_device", "cpu", ["cpu", "cuda"], "Where peers are trained.")

COSTS = ("images", "forward_only", "seconds")


def main(_) -> None:
    if bool(FLAGS.seconds) == bool(FLAGS.images):
        sys.exit("peers.py needs --seconds or --images, and not both.")
    budget = Budget(FLAGS.images, FLAGS.seconds)
    try:
        rows = chosen_rows()
        cells = peer_rows.measured(rows, budget, FLAGS)
    except (ConfigError, DataError) as error:
        sys.exit(f"peers.py: {error}")
    order = list(rows)
    cells.sort(key=lambda cell: order.index(cell["variant"]))
    write(cells, rows, budget)
    print(text_of(cells, budget))
    print(json.dumps({"cells": len(cells), "output": FLAGS.output}))


def chosen_rows() -> dict:
    """{name: row} of --rows, or those of --only."""
    rows = strict_yaml.load(text_files.read(FLAGS.rows), FLAGS.rows)
    unknown = set(FLAGS.only) - set(rows)
    if unknown:
        sys.exit(f"--only names {', '.join(sorted(unknown))}; {FLAGS.rows} has {', '.join(rows)}.")
    return {name: rows[name] for name in FLAGS.only or rows}


def write(cells, rows, budget) -> None:
    """Writes OUTPUT.json and OUTPUT.md."""
    make_folder(os.path.dirname(os.path.abspath(FLAGS.output)))
    result = {"rows": rows, "budget": str(budget), "cells": cells}
    write_text(f"{FLAGS.output}.json", json.dumps(result, indent=1) + "\n")
    write_text(f"{FLAGS.output}.md", text_of(cells, budget))


def text_of(cells, budget) -> str:
    """The tables: a summary with the cost of each row, then accuracy by layer."""
    rows = rows_of(cells)
    found = {"title": f"Budget: {budget}", "rows": rows, "paper": None, "failed": {}}
    title, _, by_layer = tables(found).partition("\n\n")
    return f"{title}\n\n{_summary(cells, rows)}\n\n{by_layer}"


def _summary(cells, rows) -> str:
    """The best layer of each evaluation, and what training has used."""
    tasks = list(rows[0]["metrics"])
    lines = []
    for row in rows:
        best = [_best(row["metrics"][task]) for task in tasks]
        own = [cell["cost"] for cell in cells if cell["variant"] == row["variant"]]
        used = [f"{spread([cost[name] for cost in own])['mean']:,.0f}" for name in COSTS]
        lines.append([row["variant"], *best, *used])
    header = ["", *(f"{task}, best layer" for task in tasks)]
    return markdown([*header, "views trained on", "forward only", "training seconds"], lines)


def _best(layers) -> str:
    """Mean, deviation and name of the layer with the highest mean."""
    name = max(layers, key=lambda layer: layers[layer]["mean"])
    value = layers[name]
    deviation = "" if value["deviation"] is None else f" ± {value['deviation']:.1f}"
    return f"{value['mean']:.1f}{deviation} ({name})"


if __name__ == "__main__":
    app.run(main)
