"""The rows of `benchmarks/peers.yaml`: each can be run, and peers have what their row says."""

import os
import pathlib
import sys
import types

import clustered
import pytest

from dc_tf import strict_yaml
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import peer_budget  # noqa: E402
import peer_rows  # noqa: E402
import peer_table  # noqa: E402

IMAGES = 3000
ROWS = strict_yaml.load((BENCHMARKS / "peers.yaml").read_text(), "peers.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """As many images as the clusters of all rows need."""
    path = str(tmp_path_factory.mktemp("data") / "data")
    image = clustered.image((200, 40, 40), side=8)
    with DatasetWriter(path, class_names=["cat", "dog"]) as writer:
        for row in range(IMAGES):
            writer.write(image, label=row % 2, source=f"{row}.png")
    return path


@pytest.fixture(scope="module")
def prepared(data):
    """All rows, planned."""
    return peer_rows.planned(ROWS, options(os.path.dirname(data), data))


@pytest.fixture(scope="module")
def cells(prepared):
    return cells_of(prepared)


def cells_of(prepared):
    """{name of a row: its cell}."""
    return {cell.variant: cell for cell in prepared.cells}


def options(folder, data, config="cifar10_small", params_override=()):
    found = dict(config=config, params_override=params_override, train=data, test=data)
    return types.SimpleNamespace(**found, seeds=["0"], workdir=os.path.join(folder, "W"))


def test_every_row_is_an_experiment_whose_epochs_fit_a_budget(cells):
    assert list(cells) == list(ROWS)
    for name, cell in cells.items():
        budget = peer_budget.Budget(images=8 * IMAGES * 6)
        stages = peer_budget.fitted(cell.run.experiment, budget)["stages"]
        assert all(stage["epochs"] >= 1 for stage in stages), name


def test_a_row_of_a_part_has_the_part_and_deepercluster_has_none(cells):
    def differs(name):
        own, base = (cells[n].run.experiment.as_dict() for n in (name, "deepercluster"))
        changed = {n for n in own["model"] if own["model"][n] != base["model"][n]}
        for mine, theirs in zip(own["stages"], base["stages"], strict=True):
            changed |= {n for n in mine if mine[n] != theirs[n]}
        return changed

    for name, changed in {
        "projection": {"projection"},
        "prototypes": {"projection", "head", "clustering"},
        "prototypes mapped": {"projection", "head", "clustering", "prototype_rotation"},
        "three clusterings": {"clusterings"},
        "bank": {"rotations", "features"},
        "every image once": {"sampling"},
        "loss between views": {"projection", "views", "contrast"},
        "augmentation": {"augmentation"},
        "two views": {"views"},
        "augmentation and two views": {"augmentation", "views"},
        "decay filter": {"optimizer"},
        "schedule": {"optimizer"},
        "lars": {"optimizer"},
        "resnet18": {"trunk", "stem", "width"},
        "resnet18 multi-crop": {"trunk", "stem", "width", "views"},
    }.items():
        assert differs(name) == changed, name


def test_colours_of_peers_and_of_the_row_are_those_of_the_preset(cells):
    preset = cells["deepercluster2_small"].run.experiment.stages[0].augmentation.as_dict()
    assert preset["solarise"] == 0  # which lightly's transform has not
    assert {**dict.fromkeys(preset, 0.0), **peer_rows.augmentation()} == preset
    assert cells["augmentation"].run.experiment.stages[1].augmentation.as_dict() == preset


def test_a_peer_has_the_trunk_and_the_crops_of_its_own_base(cells):
    for name, base in (("simclr", "deepercluster"), ("simclr resnet18", "deepercluster2_small")):
        own, other = cells[name].run.experiment, cells[base].run.experiment
        assert (own.model, own.data) == (other.model, other.data)
    assert cells["simclr"].run.experiment.model.trunk == "vgg16"
    assert cells["simclr resnet18"].run.experiment.model.trunk == "resnet18"


def test_rows_of_larger_photographs_are_planned(tmp_path, data):
    size = ["model.resolution=64,data.resize=73"]
    asked = options(str(tmp_path), data, config="quickstart", params_override=size)
    prepared = peer_rows.planned(ROWS, asked)
    cells = cells_of(prepared)
    for name, cell in cells.items():
        experiment = cell.run.experiment
        assert (experiment.model.resolution, experiment.data.resize) == (64, 73), name
        least = sum(stage.views.count for stage in experiment.stages)
        epochs = peer_budget.fitted(experiment, peer_budget.Budget(images=2 * least * IMAGES))
        assert all(stage["epochs"] >= 1 for stage in epochs["stages"]), name
    assert cells["deepercluster"].run.experiment.stages[1].sub_clusters == 40  # the quickstart's
    assert cells["resnet18"].run.experiment.model.trunk == "resnet18"
    twins = peer_rows.twins(ROWS, prepared)
    assert (twins["simclr"], twins["swav resnet18"]) == ("random", "random resnet18")


def test_the_untrained_twin_of_a_row_has_its_network(tmp_path, data, prepared):
    twins = peer_rows.twins(ROWS, prepared)
    of_its_own = {"resnet18", "resnet18 multi-crop"}  # on Sobel
    assert ROWS.keys() - twins.keys() == of_its_own
    small = {name for name, twin in twins.items() if twin == "random resnet18"}
    assert small == {name for name, row in ROWS.items() if "base" in (row or {})}
    larger = {"random": ROWS["random"], "larger": {"settings": {"data.resize": 40}}}
    planned = peer_rows.planned(larger, options(str(tmp_path), data))
    assert peer_rows.twins(larger, planned) == {"random": "random"}


def cell(variant, seed, conv13, fc7, linear=50.0):
    metrics = {"knn": {"conv13": conv13, "fc7": fc7}, "linear": {"conv13": linear, "fc7": 10.0}}
    found = {"variant": variant, "axes": {}, "seed": seed, "images": 60, "metrics": metrics}
    below = {"knn": None, "linear": None}
    return found | {"below_random_init": below, "cost": dict.fromkeys(peer_rows.UNTRAINED, 1234)}


def test_rows_are_compared_with_their_untrained_twin_of_the_same_seed():
    cells = [
        cell("random", 0, conv13=40.0, fc7=30.0),
        cell("rotnet", 0, conv13=39.0, fc7=20.0, linear=40.0),
        cell("rotnet", 1, conv13=39.0, fc7=20.0),
        cell("dino", 0, conv13=1.0, fc7=1.0),
    ]
    twins = {"random": "random", "rotnet": "random"}
    found = [one["below_random_init"] for one in peer_rows.compared(cells, twins, images=1000)]
    nothing = {"knn": None, "linear": None}
    below = {"knn": ["fc7"], "linear": ["conv13"]}  # 39 against 40 % is within the error
    assert found == [{"knn": [], "linear": []}, below, nothing, nothing]
    assert peer_rows.compared(cells, twins, images=100_000)[1]["below_random_init"]["knn"] == [
        "conv13",
        "fc7",
    ]
    del cells[0]["metrics"]["linear"]
    found = peer_rows.compared(cells, twins, images=1000)[1]["below_random_init"]
    assert found == {"knn": ["fc7"], "linear": None}


def test_the_table_has_the_best_layer_and_the_last_convolution_and_distances():
    cells = [
        *(cell("random", seed, conv13=20.0, fc7=25.0) for seed in (0, 1)),
        *(cell("ours", seed, conv13=50.0 + 2 * seed, fc7=60.0 + seed) for seed in (0, 1, 2)),
        *(cell("swav", seed, conv13=45.0 + seed, fc7=44.0) for seed in (0, 1)),
        cell("dino", 0, conv13=99.0, fc7=1.0),
    ]
    last = dict.fromkeys(("random", "ours", "swav", "dino"), "conv13")
    budget = peer_budget.Budget(images=7)
    lines = [line_of(line) for line in peer_table.text_of(cells, budget, last, "ours").split("\n")]
    heads = ["knn, best layer", "knn, last conv.", "linear, best layer", "linear, last conv."]
    costs = ["views trained on", "forward only", "training seconds"]
    assert lines[2] == ["", *heads, *costs]
    level, used = "50.0 ± 0.0 (conv13)", ["1,234"] * 3
    ours = ["ours", "61.0 ± 1.0 (fc7)", "52.0 ± 2.0 (conv13)", level, level, *used]
    assert lines[5] == ours
    assert lines[7] == ["dino", *["99.0 (conv13)"] * 2, *["50.0 (conv13)"] * 2, *used]
    # Of one seed, dino has no distance.
    assert lines[9] == ["Minus ours: points of the means (and pooled deviations of the seeds):"]
    assert lines[11] == ["", *heads]
    # Deviations of 1 and 2 over three seeds, and of 0 over two: sqrt(2 / 3) and sqrt(8 / 3).
    assert lines[13] == ["random", "-36.0 (-44.1)", "-32.0 (-19.6)", "+0.0 (-)", "+0.0 (-)"]
    # 45.5 +- sqrt(0.5) against 61 +- 1 and 52 +- 2: sqrt(2.5 / 3) and sqrt(8.5 / 3).
    assert lines[14] == ["swav", "-15.5 (-17.0)", "-6.5 (-3.9)", "+0.0 (-)", "+0.0 (-)"]
    assert lines[15] == [""]


@pytest.mark.parametrize("against", ["dino", "none"])
def test_without_seeds_of_the_reference_there_are_no_distances(against):
    cells = [cell("dino", 0, 9.0, 1.0), *(cell("swav", seed, 8.0, 1.0) for seed in (0, 1))]
    last = {"dino": "conv13", "swav": "conv13"}
    assert "Minus" not in peer_table.text_of(cells, peer_budget.Budget(images=7), last, against)


def line_of(text):
    """The cells of a line of a table, or its text."""
    return [part.strip() for part in text.strip("|").split("|")]


def test_a_row_with_a_field_of_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="row a has fraction; use peer, or base, settings, st"):
        peer_rows.planned({"a": {"fraction": 0.5}}, options(str(tmp_path), "none"))
