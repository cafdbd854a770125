"""Trains and measures the rows of `peers.py`: peers one by one, runs of dc_tf as a sweep.

    precisions = chosen_precisions(planned(rows, options), "PEERS")
    cells = measured(rows, Budget(images=30_000), precisions, options)
    cells[0]["variant"], cells[0]["metrics"]["knn"]["conv13"], cells[0]["cost"]["seconds"]

Everything is kept in WORKDIR with the settings and the fingerprint of the data that made it:
`peers/` has the weights and evaluations of peers, `dc_tf/` is the folder of the sweep.
"""

import dataclasses
import json
import os
import subprocess
import sys

from peer_budget import Budget, cost_of, fitted

from dc_tf import experiment as experiment_lib
from dc_tf import settings as settings_lib
from dc_tf.atomic import make_folder, read_json, write_json, write_text
from dc_tf.errors import ConfigError
from dc_tf.evaluation.comparison import layers_below
from dc_tf.nn.trunks import trunk_class
from dc_tf.sweep import precisions as precisions_lib
from dc_tf.sweep.jobs import Asked, kept_result
from dc_tf.sweep.processes import make_slots
from dc_tf.sweep.results import metrics_of
from dc_tf.sweep.run import Prepared, prepare, run_sweep

EVALUATIONS = {"knn": {"task": "knn"}, "linear": {"config_file": "linear_probe_small"}}
_TRAINER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer_training.py")
_TRUNK = ("width", "resolution", "stem", "fc", "sobel", "dropout")
# Whose augmentation all peers have.
_AUGMENTED = "deepercluster2_small"
# Of a variant of a sweep; the others would train on other data, or beyond the budget.
_FIELDS = ("base", "settings", "stages")
# What training has used, of a row without it.
UNTRAINED = {"images": 0, "forward_only": 0, "seconds": 0.0}


def measured(rows, budget: Budget, precisions: precisions_lib.Precisions, options) -> list[dict]:
    """The cells of all rows and seeds, as those of `dc_tf sweep` with `cost`.

    Args:
        rows: {name: row} of peers.yaml.
        budget: of each row.
        precisions: what "auto" is.
        options: has `config`, `params_override`, `train`, `test`, `workdir`, `seeds`,
            `peers_python` and `peers_device`.

    Raises:
        ConfigError: a setting that cannot work, or results of other settings in the folder.
        DataError: runs of dc_tf failed.
    """
    prepared = planned(rows, options)
    peers = Peers(options, prepared, precisions, budget)
    cells = [
        peers.cell(rows[cell.variant], cell) for cell in prepared.cells if _is_peer(rows, cell)
    ]
    if len(cells) < len(prepared.cells):
        cells += _runs(rows, prepared, precisions, budget, options)
    return cells


def planned(rows, options) -> Prepared:
    """All rows and seeds as cells of a sweep; those of peers have what they share with runs.

    Args:
        rows, options: as of `measured`.

    Raises:
        ConfigError: a setting that cannot work.
    """
    variants = {}
    for name, row in rows.items():
        row = row or {}
        if "peer" in row:
            variants[name] = {"base": row.get("base", "")}
        elif unknown := sorted(row.keys() - _FIELDS):
            known = ", ".join(sorted(_FIELDS))
            raise ConfigError(f"row {name} has {', '.join(unknown)}; use peer, or {known}.")
        else:
            variants[name] = row
    sweep = _sweep(options, variants)
    return prepare(sweep, f"{options.workdir}/plan", options.train, None, options.test, 1)


def twins(rows, prepared: Prepared) -> dict[str, str]:
    """{row: the row of its untrained twin}, where there is one; such a row is its own twin.

    A twin has the same network and measures images of the same size.
    """
    networks = {cell.variant: _network(cell.run.experiment) for cell in prepared.cells}
    untrained = [name for name in networks if _is_untrained(rows[name])]
    return {
        name: next(twin for twin in untrained if networks[twin] == network)
        for name, network in networks.items()
        if network in [networks[twin] for twin in untrained]
    }


def last_maps(prepared: Prepared) -> dict[str, str]:
    """{row: the last convolution of its trunk}."""
    return {
        cell.variant: trunk_class(cell.run.experiment.model.trunk).map_names[-1]
        for cell in prepared.cells
    }


def compared(cells, twins, images) -> list[dict]:
    """Cells with the layers that end below those of their untrained twin of the same seed.

    Args:
        cells: of `measured`.
        twins: of the function `twins`.
        images: that were measured on.

    Returns:
        The cells with `below_random_init` as of `dc_tf.sweep.results.collect`: None for what has no
        twin that was measured.
    """
    by_name = {(cell["variant"], cell["seed"]): cell for cell in cells}
    return [
        cell | {"below_random_init": _below(cell, by_name.get(_twin(cell, twins)), images)}
        for cell in cells
    ]


def _twin(cell, twins):
    return twins.get(cell["variant"]), cell["seed"]


def _below(cell, twin, images):
    theirs = twin["metrics"] if twin else {}
    return {
        name: layers_below(_shares(own), _shares(theirs.get(name, {})), images)
        for name, own in cell["metrics"].items()
    }


def _shares(layers):
    return {layer: percent / 100 for layer, percent in layers.items()}


def _network(experiment):
    """What the features of an untrained network depend on."""
    model = experiment.model
    names = [name for name in trunk_class(model.trunk).setting_names if name != "dropout"]
    return model.trunk, *(getattr(model, name) for name in names), experiment.data.resize


def _is_untrained(row):
    return (row or {}).get("peer") == "untrained"


def chosen_precisions(prepared: Prepared, workdir) -> precisions_lib.Precisions:
    """What "auto" is, measured with the first of all calls and kept in `workdir`."""
    path = f"{workdir}/precisions.json"
    if not os.path.exists(path):
        make_folder(workdir)
        chosen = precisions_lib.choose(prepared.runs, {}, make_slots(1, 1)[0])
        write_json(path, dataclasses.asdict(chosen))
    return precisions_lib.Precisions(**read_json(path))


def augmentation() -> dict:
    """{flag of peer_training.py: value} of the colours of all peers, those of a preset."""
    return settings_lib.read([_AUGMENTED])["stages"][0]["augmentation"]


def _is_peer(rows, cell):
    return "peer" in (rows[cell.variant] or {})


def _sweep(options, variants) -> dict:
    return {
        "title": "Peers",
        "base": options.config,
        "settings": settings_lib.read([], options.params_override),
        "seeds": [int(seed) for seed in options.seeds],
        "variants": variants,
        "evaluations": EVALUATIONS,
    }


def _runs(rows, prepared, precisions, budget, options) -> list[dict]:
    """Runs of dc_tf with the epochs that fit the budget, as a sweep."""
    variants = {}
    for cell in prepared.cells:
        if cell.variant not in variants and not _is_peer(rows, cell):
            experiment = precisions.applied(cell.run.experiment)
            path = os.path.join(options.workdir, "epochs", f"{cell.run.name}.json")
            made_with = {
                "settings": experiment_lib.result_settings(experiment),
                "data": prepared.fingerprint,
                "budget": dataclasses.asdict(budget),
            }
            variants[cell.variant] = {"settings": _fitted(experiment, budget, made_with, path)}
    folder = os.path.join(options.workdir, "dc_tf")
    sweep = _sweep(options, variants) | {"base": "", "settings": {}}
    found = run_sweep(sweep, folder, options.train, test=options.test)
    costs = [cost_of(cell.pop("run")) for cell in found["cells"]]
    return [cell | {"cost": cost} for cell, cost in zip(found["cells"], costs, strict=True)]


def _fitted(experiment, budget, made_with, path) -> dict:
    """The settings with the epochs of the budget; a measured speed is measured once."""
    if not os.path.exists(path):
        make_folder(os.path.dirname(path))
        write_json(path, {"made_with": made_with, "settings": fitted(experiment, budget)})
    _check_same(path, made_with)
    return read_json(path)["settings"]


def _check_same(path, made_with):
    if read_json(path)["made_with"] != json.loads(json.dumps(made_with)):  # which has no tuples
        raise ConfigError(f"{path} is of other settings or data; give another --workdir.")


class Peers:
    """Peers, each with the data, the trunk and the crops of its cell in a prepared sweep.

    Args:
        options: as of `measured`.
        prepared: run.Prepared.
        precisions: Precisions.
        budget: Budget of each peer.
    """

    def __init__(self, options, prepared, precisions, budget):
        self._options, self._prepared = options, prepared
        self._precisions, self._budget = precisions, budget
        self._folder = os.path.join(options.workdir, "peers")

    def cell(self, row, cell) -> dict:
        """Trains and measures a row with a seed."""
        run, folder = cell.run, os.path.join(self._folder, cell.name)
        make_folder(folder)
        model = os.path.join(folder, "model")
        cost = self._train(row, run.experiment, f"{folder}/trunk.pth")
        if not os.path.exists(model):
            resolution = f"--resolution={run.experiment.model.resolution}"
            _dc_tf(
                "import_torch", f"--checkpoint={folder}/trunk.pth", f"--output={model}", resolution
            )
        return {
            "variant": cell.variant,
            "axes": {},
            "seed": cell.seed,
            "images": run.rows,
            "metrics": self._metrics(run, model, folder),
            "below_random_init": dict.fromkeys(EVALUATIONS),  # `compared` fills it
            "cost": cost,
        }

    def _train(self, row, experiment, weights) -> dict:
        """What the training of a peer has used; trains unless it is done."""
        settings = {name: getattr(experiment.model, name) for name in _TRUNK}
        arguments = [
            f"--trunk={experiment.model.trunk}",
            f"--settings={json.dumps(settings)}",
            f"--min_crop_area={experiment.data.min_crop_area}",
            *(f"--{name}={value}" for name, value in augmentation().items()),
            f"--seed={experiment.seed}",
            f"--device={self._options.peers_device}",
            *self._arguments(row),
        ]
        made_with = {"arguments": arguments, "data": self._prepared.fingerprint}
        done = f"{weights}.done.json"
        if not os.path.exists(done):
            command = [self._options.peers_python, _TRAINER, f"--data={self._prepared.sweep.data}"]
            _run([*command, *arguments, f"--output={weights}"], "peer_training.py")
            cost = UNTRAINED | read_json(f"{weights}.json")
            write_json(done, {"made_with": made_with, "cost": cost})
        _check_same(done, made_with)
        return read_json(done)["cost"]

    def _arguments(self, row) -> list[str]:
        """The method and the budget, as flags of peer_training.py."""
        if row["peer"] == "untrained":
            return ["--method=simclr", "--untrained"]
        budget = self._budget
        used = f"--images={budget.images}" if budget.images else f"--seconds={budget.seconds}"
        own = [f"--{key}={value}" for key, value in row.items() if key not in ("peer", "base")]
        return [f"--method={row['peer']}", used, *own]

    def _metrics(self, run, model, folder) -> dict:
        """{evaluation: {layer: percent}} on images as a run sees them, unless it is done."""
        found, resize = {}, run.experiment.data.resize
        flags = [f"--resize={resize}"] if resize else []
        for evaluation in self._prepared.sweep.evaluations:
            path = os.path.join(folder, f"{evaluation.name}.json")
            asked = Asked(self._prepared.sweep, evaluation, run, False,
                          self._precisions.evaluation, self._prepared.prints)  # fmt: skip
            made_with = asked.made_with() | {"resize": resize}
            if kept_result(path, made_with) is None:
                _dc_tf(*asked.arguments(model, f"{path}.new"), *flags)
                kept = {"made_with": made_with, "result": read_json(f"{path}.new")}
                write_text(path, json.dumps(kept, indent=1) + "\n")
            found[evaluation.name] = metrics_of(kept_result(path), untrained=False)
        return found


def _dc_tf(*arguments):
    _run([sys.executable, "-m", "dc_tf", *arguments], f"dc_tf {arguments[0]}")


def _run(command, name):
    """Runs a program; its output goes to that of this one for errors."""
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"{name} ended with code {done.returncode}; see above.")
