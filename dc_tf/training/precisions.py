"""Resolves "auto" in the floating-point types of an experiment, alike on all workers.

    chosen = choose_precisions(experiment, cluster.world)
    chosen.experiment, chosen.lines    # what to train, and why

The choice is saved with the other settings of the run, so a run resumed on another machine keeps
its types.
"""

import dataclasses

from dc_tf.clustering.search.backends import choose_precision
from dc_tf.distributed.collectives import ALONE, broadcast_json
from dc_tf.experiment import Experiment, with_types
from dc_tf.nn.trunks import feature_dim
from dc_tf.precision import AUTO, Choice, choose, require_possible

_BEFORE = "auto: as this run began"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An experiment without "auto", and the reasons for its types.

    Attributes:
        experiment: with all types resolved.
        model: Choice of `model.compute_dtype`.
        clustering: a Choice for each stage; None for a stage without clusters.
    """

    experiment: Experiment
    model: Choice
    clustering: tuple[Choice | None, ...]

    @property
    def lines(self) -> list[str]:
        """A sentence about the network, and one about each stage that clusters."""
        stages = zip(self.experiment.stages, self.clustering, strict=True)
        lines = [f"clustering precision of {s.name}: {choice}" for s, choice in stages if choice]
        return [f"compute_dtype: {self.model}", *lines]

    @property
    def warnings(self) -> list[str]:
        """Sentences about requested types that are slower than float32."""
        named = {"model.compute_dtype": self.model}
        for i, choice in enumerate(self.clustering):
            named[f"stages[{i}].clustering.precision"] = choice
        return [
            f"{name}=bfloat16 is {choice.speed:.2g} times as fast as float32 on this device; "
            "'auto' or 'float32' would be faster"
            for name, choice in named.items()
            if choice and choice.slower
        ]


def choose_precisions(experiment, world=ALONE, earlier=None) -> Chosen:
    """Replaces "auto", alike on all workers; a collective call.

    Args:
        experiment: experiment.Experiment.
        world: Communicator of the workers.
        earlier: Experiment that the run in the folder was started with, or None; the chief's is
            used.
    """
    before = broadcast_json(_types(earlier) if earlier else None, world)
    model = _model_choice(experiment, before, world)
    clustering = tuple(
        _clustering_choice(experiment, index, before, world)
        for index in range(len(experiment.stages))
    )
    types = {
        "model": model.dtype,
        "stages": [choice.dtype if choice else "float32" for choice in clustering],
    }
    return Chosen(with_types(experiment, **types), model, clustering)


def without_auto(experiment, world) -> Experiment:
    """`experiment` with every "auto" replaced as by `choose_precisions`."""
    asked = _types(experiment)
    if AUTO not in (asked["model"], *asked["stages"]):
        return experiment
    return choose_precisions(experiment, world).experiment


def as_begun(experiment, earlier) -> Experiment:
    """`experiment` with "auto" replaced by the types of `earlier`, the settings of its run."""
    # An earlier run with other stages is refused later, by name.
    return with_types(experiment, **_types(earlier))


def _types(experiment):
    return {
        "model": experiment.model.compute_dtype,
        "stages": [stage.clustering.precision for stage in experiment.stages],
    }


def _model_choice(experiment, before, world):
    asked = experiment.model.compute_dtype
    if asked == AUTO and before:
        require_possible(before["model"], world)
        return Choice(asked, before["model"], reason=_BEFORE)
    return choose(asked, "convolution", comm=world)


def _clustering_choice(experiment, index, before, world):
    stage = experiment.stages[index]
    if not stage.clustered:
        return None
    settings = stage.clustering
    if settings.precision == AUTO and before:
        require_possible(before["stages"][index], world)
        return Choice(AUTO, before["stages"][index], reason=_BEFORE)
    k = max(stage.clusters, stage.sub_clusters)
    dim = settings.whitening_dim or stage.feature_dim(feature_dim(experiment.model))
    return choose_precision(settings.precision, settings.backend, k, dim, world)
