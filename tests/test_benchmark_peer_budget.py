"""The budget of `benchmarks/peers.py`: epochs that fit, and what a run has used."""

import os
import pathlib
import sys
import tempfile

import pytest
import runs

from dc_tf.errors import ConfigError
from dc_tf.experiment import load
from dc_tf.training.run import train

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import peer_budget  # noqa: E402


@pytest.fixture(scope="module")
def data():
    with tempfile.TemporaryDirectory() as folder:
        yield runs.make_data(folder)  # 128 images: 4 steps of 32 an epoch


def experiment_on(data, **changes):
    """Stages of 2 and 3 epochs, of which the second clusters every 2."""
    return load(params_override=[repr(runs.settings(data)), changes])


def epochs_of(settings):
    return [stage["epochs"] for stage in settings["stages"]]


def fitted(experiment, images):
    return epochs_of(peer_budget.fitted(experiment, peer_budget.Budget(images=images)))


def test_a_run_has_the_most_whole_epochs_in_the_configured_ratio(data):
    experiment = experiment_on(data)
    assert fitted(experiment, 2 * 128) == [1, 1]
    assert fitted(experiment, 20 * 128) == [8, 12]


def test_every_view_of_an_image_counts(data):
    two = experiment_on(data, **{"stages[0].views.global_views": 2})
    assert fitted(two, 3 * 128) == [1, 1]
    with pytest.raises(ConfigError, match="costs 384; the budget is 383 views"):
        fitted(two, 383)


@pytest.mark.slow
@pytest.mark.parametrize("features, passes", [("extract", 2), ("bank", 1)])
def test_the_cost_of_a_run_is_that_of_its_plan(data, features, passes):
    """Two rounds, of which only the first extracts features where a bank keeps them."""
    changes = {"stages[1].features": features, "stages[1].rotations": 1}
    budget = peer_budget.Budget(images=5 * 128)
    settings = peer_budget.fitted(experiment_on(data, **changes), budget)
    with tempfile.TemporaryDirectory() as folder:
        workdir = os.path.join(folder, "run")
        train(load(params_override=[settings]), workdir)
        cost = peer_budget.cost_of(workdir)
    assert epochs_of(settings) == [2, 3]
    assert cost["images"] == 5 * 128
    assert cost["forward_only"] == passes * 128
    assert cost["seconds"] > 0


@pytest.mark.slow
def test_seconds_are_filled_by_a_speed_that_is_measured(data, monkeypatch):
    experiment = experiment_on(data)
    plan = peer_budget._measured_plan(experiment)
    monkeypatch.setattr(peer_budget, "_measured_plan", lambda _: plan)
    first, second = (128 / stage["images_per_second"] for stage in plan["stages"])
    clustering = plan["stages"][1]["clustering_seconds"] / 2  # of two
    assert min(first, second, clustering) > 0
    # With what launch/budget.py adds, 0.5 s for an epoch and 4 s for each of three rounds.
    seconds = 2 * first + 3 * second + 2 * clustering + 5 * 0.5 + 3 * 4

    def fitted_in(share):
        budget = peer_budget.Budget(seconds=share * seconds)
        return epochs_of(peer_budget.fitted(experiment, budget))

    assert fitted_in(1.001) == [2, 3]
    assert fitted_in(0.999) == [1, 2]
    with pytest.raises(ConfigError, match="one epoch of each stage costs .* 0.* seconds of train"):
        fitted_in(0.001)
