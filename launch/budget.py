"""Fits the epochs of an experiment to a time limit.

    costs = Costs.of(plan, wall_s, test_rows)         # of `dc_tf train --dry_run --measure`
    epochs = fit(costs, seconds=400)
    costs.seconds(epochs), overrides(costs, epochs)

The ratio of epochs between stages is kept. Each stage has at least `LEAST_STEPS` steps, and at most
the epochs of the configuration, or, on fewer images than `MADE_FOR`, as many steps as on that many.
Arithmetic only; needs nothing but Python.
"""

import dataclasses
import math

# Number of images for which the epochs of `configs/quickstart.yaml` were chosen.
MADE_FOR = 4000
# With 62 steps per stage the best layers were better than those of random weights
# (benchmarks/results/quickstart.md); fewer were not tried.
LEAST_STEPS = 60
# Overhead in seconds: of an epoch, for its first batches and metrics; of a round, for its
# checkpoint and the fixed part of a clustering (8 s on a machine busy with other jobs).
_EPOCH_S = 0.5
_ROUND_S = 4.0
# Each of the two evaluations runs all images through the trained and the untrained network.
_NETWORKS = 2
# Seconds per image of classifiers and nearest neighbours, for both networks and six layers.
_CLASSIFY_S = 0.0035
# Programs after training that start TensorFlow: export, k-NN, linear probe, report.
_PROGRAMS = 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """The cost of a stage.

    Attributes:
        name: of the stage.
        epochs: of the configuration.
        least: smallest number of epochs.
        reassign_every: epochs from one clustering to the next; 0 without clusterings.
        drops: epochs after which the learning rate is lowered.
        warmup_epochs: epochs in which it grows.
        epoch_s: seconds of the training of an epoch.
        clustering_s: seconds of one clustering, extraction included.
        images_per_s: of training, over all workers.
    """

    name: str
    epochs: int
    least: int
    reassign_every: int
    drops: tuple
    warmup_epochs: float
    epoch_s: float
    clustering_s: float
    images_per_s: float

    @classmethod
    def of(cls, planned, workers, speed, most) -> "Stage":
        """From a stage of the plan.

        Args:
            planned: dict of the stage, as of `dc_tf train --dry_run`.
            workers: of the plan.
            speed: images a second over all workers, where this stage was not measured.
            most: upper bound of the factor on epochs.
        """
        speed = planned["images_per_second"] or speed
        enough = math.ceil(LEAST_STEPS / planned["steps_per_epoch"])
        images = planned["steps_per_epoch"] * planned["batch_per_worker"] * workers
        return cls(
            name=planned["name"],
            epochs=planned["epochs"],
            least=min(enough, math.floor(most * planned["epochs"])),
            reassign_every=planned["reassign_every"],
            drops=tuple(planned["drops"]),
            warmup_epochs=planned["warmup_epochs"],
            epoch_s=images / speed,
            clustering_s=(planned["clustering_seconds"] or 0.0) / max(1, planned["clusterings"]),
            images_per_s=speed,
        )

    def warmup(self, epochs) -> float:
        """Epochs of warm-up: as many steps as configured, or half of what is trained if less."""
        return min(self.warmup_epochs * max(1.0, epochs / self.epochs), epochs / 2)

    def seconds(self, epochs) -> float:
        rounds = math.ceil(epochs / self.every(epochs)) if self.reassign_every else 1
        clustering_s = self.clustering_s if self.reassign_every else 0.0
        return epochs * (self.epoch_s + _EPOCH_S) + rounds * (clustering_s + _ROUND_S)

    def every(self, epochs) -> int:
        """Epochs between clusterings, with at most the configured number of clusterings."""
        return max(self.reassign_every, math.ceil(epochs * self.reassign_every / self.epochs))

    def whole_rounds(self, epochs) -> int:
        """At least `least`, in whole rounds: the clusters of a cut round would be hardly used."""
        every = self.every(epochs) if self.reassign_every else 1
        return max(self.least, epochs if epochs < every else epochs // every * every)


@dataclasses.dataclass(frozen=True)
class Costs:
    """The cost of training and evaluation in seconds.

    Attributes:
        stages: tuple of Stage.
        most: upper bound of the factor on epochs, at least 1.
        start_s: of the start of the workers and their first steps.
        after_s: of export and evaluations.
    """

    stages: tuple
    most: float
    start_s: float
    after_s: float

    @classmethod
    def of(cls, plan, wall_s, test_rows) -> "Costs | None":
        """From measured rates.

        Args:
            plan: dict, the result of `dc_tf train --dry_run --measure`.
            wall_s: seconds that this command took.
            test_rows: images to evaluate on; None: no evaluation.

        Returns:
            Costs, or None if no speed is known. A stage that was not measured counts as slow as the
            slowest one.
        """
        measured, planned = plan["measured"], plan["stages"]
        speeds = [s["images_per_second"] for s in planned if s["images_per_second"]]
        if not speeds:
            return None
        most = max(1.0, MADE_FOR / plan["rows"])
        stages = tuple(Stage.of(one, plan["workers"], min(speeds), most) for one in planned)
        first_steps_s = measured["first_steps_seconds"]
        program_s = max(0.0, wall_s - measured["seconds"])
        after_s = 2 * program_s  # export, report
        if test_rows is not None:
            images = plan["rows"] + test_rows
            each = _NETWORKS * images / measured["extract_images_per_second"]
            after_s = _PROGRAMS * program_s + 2 * each + _CLASSIFY_S * images
        return cls(stages, most, program_s + first_steps_s, after_s)

    def seconds(self, epochs) -> float:
        """Seconds of all that follows the measurement, given the epochs of each stage."""
        training = sum(
            stage.seconds(count) for stage, count in zip(self.stages, epochs, strict=True)
        )
        return self.start_s + training + self.after_s


def fit(costs, seconds) -> list[int]:
    """The most epochs of each stage that fit into `seconds`."""
    configured = [stage.epochs for stage in costs.stages]
    longest = max(configured)
    best = None
    for most in range(1, math.floor(costs.most * longest) + 1):
        shares = [round(count * most / longest) for count in configured]
        epochs = [
            stage.whole_rounds(share) for stage, share in zip(costs.stages, shares, strict=True)
        ]
        if best is not None and costs.seconds(epochs) > seconds:
            break
        best = epochs
    return best


def overrides(costs, epochs) -> dict:
    """Settings for `--params_override`: epochs, and settings counted in epochs, in proportion."""
    settings = {}
    for index, (stage, count) in enumerate(zip(costs.stages, epochs, strict=True)):
        name = f"stages[{index}]"
        settings[f"{name}.epochs"] = count
        drops = sorted({max(1, round(drop * count / stage.epochs)) for drop in stage.drops})
        settings[f"{name}.optimizer.drops"] = [drop for drop in drops if drop < count]
        if stage.warmup_epochs:
            settings[f"{name}.optimizer.warmup_epochs"] = stage.warmup(count)
        if stage.reassign_every:
            settings[f"{name}.reassign_every"] = stage.every(count)
    return settings
