"""Compares dc_tf with SimCLR, SwAV and DINO of `lightly` at an equal budget, over seeds.

    python benchmarks/peers.py --train=DATA/cifar10_train --test=DATA/cifar10_test \\
        --workdir=PEERS --images=1000000 --output=PEERS/peers

Rows are those of `--rows`. A peer has the trunk and the smallest crop of `--config`, or of its own
`base`; every row has the data set and one budget: `--images` views through the network, or
`--seconds` of training. Peers stop when it is used; runs of dc_tf, a sweep, have as many whole
epochs as fit, for seconds by a speed measured before. Weights of peers are imported with
`dc_tf import_torch`, and all rows are measured with the same calls of `dc_tf evaluate`. An
interrupted call resumes. Writes OUTPUT.json and OUTPUT.md, after each row; rows and seeds that
OUTPUT.json already has, of the same budget, data and base, stay in the tables.

Peers need the extra `peers`; `--peers_python` names an environment that has it.
"""

import json
import os
import sys

import peer_rows
import peer_table
from absl import app, flags
from peer_budget import Budget

from dc_tf import strict_yaml, text_files
from dc_tf.atomic import make_folder, read_json, write_text
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Data set that is learned from, with labels.", required=True)
flags.DEFINE_string("test", None, "Data set that is measured on.", required=True)
flags.DEFINE_string("config", "cifar10_small", "Base of the rows that name none.")
flags.DEFINE_multi_string(
    "params_override", [], "Changes of the base of every row, before its own: a.b=1,c=2, or YAML."
)
flags.DEFINE_string("rows", "benchmarks/peers.yaml", "{name: row}; the file explains them.")
flags.DEFINE_list("only", [], "Names of rows; all by default.")
flags.DEFINE_string(
    "against", "deepercluster2_small", "Row that the others are compared with, where measured."
)
flags.DEFINE_string("workdir", None, "Folder for the runs and their results.", required=True)
flags.DEFINE_string("output", None, "Results: OUTPUT.json and OUTPUT.md.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the experiments.")
flags.DEFINE_float("seconds", 0.0, "Budget: seconds of training.", lower_bound=0)
flags.DEFINE_integer("images", 0, "Budget: views through the network.", lower_bound=0)
flags.DEFINE_string("peers_python", sys.executable, "Python that has the extra `peers`.")
flags.DEFINE_enum("peers_device", "cpu", ["cpu", "cuda"], "Where peers are trained.")


def main(_) -> None:
    if bool(FLAGS.seconds) == bool(FLAGS.images):
        sys.exit("peers.py needs --seconds or --images, and not both.")
    budget = Budget(FLAGS.images, FLAGS.seconds)
    try:
        known = strict_yaml.load(text_files.read(FLAGS.rows), FLAGS.rows)
        rows = chosen_rows(known)
        prepared = peer_rows.planned(known, FLAGS)
        measured = Measured(f"{FLAGS.output}.json", known, prepared, budget)
        precisions = peer_rows.chosen_precisions(prepared, FLAGS.workdir)
        for name in rows:
            measured.add(peer_rows.measured({name: rows[name]}, budget, precisions, FLAGS))
            measured.write(FLAGS.output, FLAGS.against)
    except (ConfigError, DataError) as error:
        sys.exit(f"peers.py: {error}")
    print(measured.text(FLAGS.against))
    print(json.dumps({"cells": len(measured.cells), "output": FLAGS.output}))


class Measured:
    """The cells of all calls with one output.

    Args:
        path: JSON file of the earlier calls; need not exist.
        known: {name: row} of all rows; their order is that of the cells.
        prepared: of `peer_rows.planned`, of all rows.
        budget: of all cells.

    Attributes:
        cells: list of the cells of `peer_rows.measured`, compared with their untrained twins.

    Raises:
        ConfigError: the file is of another budget, other data or another base.
    """

    def __init__(self, path, known, prepared, budget):
        self.cells, self._known, self._budget = [], known, budget
        self._twins = peer_rows.twins(known, prepared)
        self._last_maps = peer_rows.last_maps(prepared)
        self._test_images = int((Dataset.open(FLAGS.test).labels() >= 0).sum())
        data = {name: Dataset.open(FLAGS[name].value) for name in ("train", "test")}
        prints = {name: dataset.fingerprint() for name, dataset in data.items()}
        base = {"config": FLAGS.config, "params_override": FLAGS.params_override}
        self._about = {"budget": str(budget), "data": prints, "base": base}
        if os.path.exists(path):
            found = read_json(path)
            if {name: found.get(name) for name in self._about} != self._about:
                raise ConfigError(
                    f"{path} is of another budget, data or base; give another --output."
                )
            self.add([c for c in found["cells"] if found["rows"][c["variant"]] == self._row(c)])

    def add(self, cells) -> None:
        """Adds cells, in place of those of the same row and seed."""
        merged = {(cell["variant"], cell["seed"]): cell for cell in [*self.cells, *cells]}
        order = list(self._known)
        found = sorted(
            merged.values(), key=lambda cell: (order.index(cell["variant"]), cell["seed"])
        )
        self.cells = peer_rows.compared(found, self._twins, self._test_images)

    def as_dict(self) -> dict:
        """JSON-ready."""
        rows = {cell["variant"]: self._row(cell) for cell in self.cells}
        return {"rows": rows, **self._about, "cells": self.cells}

    def text(self, against) -> str:
        """The tables."""
        return peer_table.text_of(self.cells, self._budget, self._last_maps, against)

    def write(self, output, against) -> None:
        """Writes OUTPUT.json and OUTPUT.md."""
        make_folder(os.path.dirname(os.path.abspath(output)))
        write_text(f"{output}.json", json.dumps(self.as_dict(), indent=1) + "\n")
        write_text(f"{output}.md", self.text(against))

    def _row(self, cell):
        return self._known.get(cell["variant"], "not a row any more")


def chosen_rows(rows) -> dict:
    """Those of --only, or all."""
    own = {FLAGS.against} if FLAGS["against"].present else set()
    for flag, names in (("only", set(FLAGS.only)), ("against", own)):
        if unknown := ", ".join(sorted(names - set(rows))):
            sys.exit(f"--{flag} names {unknown}; {FLAGS.rows} has {', '.join(rows)}.")
    return {name: rows[name] for name in FLAGS.only or rows}


if __name__ == "__main__":
    app.run(main)
