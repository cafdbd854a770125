"""The rows of `benchmarks/peers.yaml`: each can be run, and peers have what their row says."""

import os
import pathlib
import sys
import types

import pytest
import runs

from dc_tf import strict_yaml
from dc_tf.errors import ConfigError

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import peer_budget  # noqa: E402
import peer_rows  # noqa: E402

ROWS = strict_yaml.load((BENCHMARKS / "peers.yaml").read_text(), "peers.yaml")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """{name of a row: its cell}, on as many images as the clusters of all rows need."""
    folder = str(tmp_path_factory.mktemp("rows"))
    prepared = peer_rows.planned(ROWS, options(folder, runs.make_data(folder, images=320)))
    return {cell.variant: cell for cell in prepared.cells}


def options(folder, data, config="cifar10_small"):
    found = dict(config=config, train=data, test=data, seeds=["0"])
    return types.SimpleNamespace(**found, workdir=os.path.join(folder, "W"))


def test_every_row_is_an_experiment_whose_epochs_fit_a_budget(cells):
    assert list(cells) == list(ROWS)
    for name, cell in cells.items():
        budget = peer_budget.Budget(images=8 * 320 * 6)
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
        "three clusterings": {"clusterings"},
        "bank": {"rotations", "features"},
        "augmentation": {"augmentation"},
        "two views": {"views"},
        "schedule": {"optimizer"},
        "lars": {"optimizer"},
        "resnet18": {"trunk", "stem", "width"},
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


def test_a_row_with_a_field_of_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="row a has fraction; use peer, or base, settings, st"):
        peer_rows.planned({"a": {"fraction": 0.5}}, options(str(tmp_path), "none"))
