"""Fits the epochs of an experiment to the minutes that it may take.

    costs = Costs.of(plan, wall_s, test_rows)         # of `dc_tf train --dry_run --measure`
    epochs = fit(costs, seconds=400)
    costs.seconds(epochs), overrides(costs, epochs)

The ratio of the stages' epochs stays. Each stage has at least `LEAST_STEPS` steps, and at most the
epochs of the configuration, or, on fewer images than it was made for, as many steps as there.
Arithmetic only; needs nothing but Python.
"""

import dataclasses
import math

# Images of `configs/quickstart.yaml`, whose epochs suit so many.
MADE_FOR = 4000
# With 62 steps a stage the best layers were better than those of random weights
# (benchmarks/results/quickstart.md); fewer were not tried.
LEAST_STEPS = 60
# Seconds beyond the steps: of an epoch, for its first batches and metrics; of a round, for its
# checkpoint and what of a clustering does not depend on the number of images (8 s were seen on a
# machine busy with other jobs).
_EPOCH_S = 0.5
_ROUND_S = 4.0
# Networks that each of the two evaluations passes all images through: the trained, the untrained.
_NETWORKS = 2
# Seconds of classifiers and neighbours for an image, both networks and six layers.
_CLASSIFY_S = 0.0035
# Programs after training that start TensorFlow: export, k-NN, linear probe, report.
_PROGRAMS = 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage costs.

    Attributes:
        name: of the stage.
        epochs: of the configuration.
        least: epochs, at least.
        reassign_every: epochs from one clustering to the next; 0 without clusterings.
        drops: epochs after which the learning rate falls.
        epoch_s: seconds of the training of an epoch.
        clustering_s: seconds of one clustering, extraction included.
        images_per_s: of training, over all workers.
    """

    name: str
    epochs: int
    least: int
    reassign_every: int
    drops: tuple
    epoch_s: float
    clustering_s: float
    images_per_s: float

    def seconds(self, epochs):
        rounds = math.ceil(epochs / self.every(epochs)) if self.reassign_every else 1
        clustering_s = self.clustering_s if self.reassign_every else 0.0
        return epochs * (self.epoch_s + _EPOCH_S) + rounds * (clustering_s + _ROUND_S)

    def every(self, epochs):
        """Epochs from one clustering to the next: not more clusterings than configured."""
        return max(self.reassign_every, math.ceil(epochs * self.reassign_every / self.epochs))

    def whole_rounds(self, epochs):
        """At least `least`, and no round cut short: its clusters would be new at the end."""
        every = self.every(epochs) if self.reassign_every else 1
        return max(self.least, epochs if epochs < every else epochs // every * every)


@dataclasses.dataclass(frozen=True)
class Costs:
    """What training and measuring cost in seconds.

    Attributes:
        stages: tuple of Stage.
        most: the most that epochs are multiplied by, at least 1.
        start_s: start of the workers and their first steps.
        after_s: export and evaluations.
    """

    stages: tuple
    most: float
    start_s: float
    after_s: float

    @classmethod
    def of(cls, plan, wall_s, test_rows):
        """From what was measured.

        Args:
            plan: dict, the result of `dc_tf train --dry_run --measure`.
            wall_s: seconds that this took.
            test_rows: images to measure with; None: nothing is measured.

        Returns:
            Costs, or None where no speed is known. A stage that was not measured is taken to be as
            slow as the slowest one.
        """
        measured, found = plan["measured"], plan["stages"]
        speeds = [s["images_per_second"] for s in found if s["images_per_second"]]
        if not speeds:
            return None

        def step_images(stage):
            return stage["batch_per_worker"] * plan["workers"]

        def speed(stage):
            return stage["images_per_second"] or min(speeds)

        most = max(1.0, MADE_FOR / plan["rows"])

        def least(stage):
            enough = math.ceil(LEAST_STEPS / stage["steps_per_epoch"])
            return min(enough, math.floor(most * stage["epochs"]))

        stages = tuple(
            Stage(
                name=stage["name"],
                epochs=stage["epochs"],
                least=least(stage),
                reassign_every=stage["reassign_every"],
                drops=tuple(stage["drops"]),
                epoch_s=stage["steps_per_epoch"] * step_images(stage) / speed(stage),
                clustering_s=(stage["clustering_seconds"] or 0.0) / max(1, stage["clusterings"]),
                images_per_s=speed(stage),
            )
            for stage in found
        )
        first_steps_s = measured["first_steps_seconds"]
        program_s = max(0.0, wall_s - measured["seconds"])
        after_s = 2 * program_s  # export, report
        if test_rows is not None:
            images = plan["rows"] + test_rows
            each = _NETWORKS * images / measured["extract_images_per_second"]
            after_s = _PROGRAMS * program_s + 2 * each + _CLASSIFY_S * images
        return cls(stages, most, program_s + first_steps_s, after_s)

    def seconds(self, epochs):
        """Of all that is left after the measurement, with so many epochs of each stage."""
        training = sum(stage.seconds(count) for stage, count in zip(self.stages, epochs))
        return self.start_s + training + self.after_s


def fit(costs, seconds):
    """The most epochs of each stage that are over in `seconds`, as a list; see above."""
    configured = [stage.epochs for stage in costs.stages]
    longest = max(configured)
    best = None
    for most in range(1, math.floor(costs.most * longest) + 1):
        shares = [round(count * most / longest) for count in configured]
        epochs = [stage.whole_rounds(share) for stage, share in zip(costs.stages, shares)]
        if best is not None and costs.seconds(epochs) > seconds:
            break
        best = epochs
    return best


def overrides(costs, epochs):
    """Settings for `--params_override`: epochs, and what is counted in epochs, in proportion."""
    settings = {}
    for index, (stage, count) in enumerate(zip(costs.stages, epochs)):
        name = f"stages[{index}]"
        settings[f"{name}.epochs"] = count
        drops = sorted({max(1, round(drop * count / stage.epochs)) for drop in stage.drops})
        settings[f"{name}.optimizer.drops"] = [drop for drop in drops if drop < count]
        if stage.reassign_every:
            settings[f"{name}.reassign_every"] = stage.every(count)
    return settings
