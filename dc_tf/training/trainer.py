"""Trains for one epoch: orbit's controller around an inner loop of steps.

trainer = StageTrainer(experiment, run, cluster, learner, checkpoints, metrics, position)
trainer.train_epoch(batches, rates=[0.1] * 100, title="rotnet epoch 1/9")
trainer.position
"""

import collections
import contextlib
import dataclasses
import io
import math
import time
from collections.abc import Iterable

import orbit
import tensorflow as tf
from absl import logging

from dc_tf import atomic
from dc_tf.data.storage.reader import data_errors
from dc_tf.distributed import heartbeat, stop_request
from dc_tf.errors import DataError, Preempted
from dc_tf.progress import Progress
from dc_tf.training.optimizers.loss_scale import LEAST
from dc_tf.training.step import step_metrics

# A warning is logged when waiting for images takes this share of the time, measured after so many
# seconds.
_INPUT_BOUND = 0.2
_INPUT_BOUND_AFTER_S = 30.0
# A step's result is read only after this many further steps have started, so the GPU never idles.
_LAG = 2
# Metrics shown beside the progress bar.
_SHOWN = ("loss", "rotation_accuracy", "images_per_second", "input_wait")


class StageTrainer:
    """Trains the epochs of one stage: steps, metrics, checkpoints, a finite loss.

    Args:
        experiment: experiment.Experiment.
        run: RunDir.
        cluster: Cluster.
        learner: Learner of the stage.
        checkpoints: Checkpoints.
        metrics: MetricsLog.
        position: Position to resume from.
        bank: StageBank that the features of steps are kept in, or None.

    Attributes:
        position: Position, kept up to date.
    """

    def __init__(
        self, experiment, run, cluster, learner, checkpoints, metrics, position, bank=None
    ):
        self.position = position
        self._experiment = experiment
        self._run = run
        self._cluster = cluster
        self._learner = learner
        self._checkpoints = checkpoints
        self._metrics = metrics
        self._bank = bank
        self._progress = None
        self._epoch_fields = {}
        self._global_step = tf.Variable(position.global_step, dtype=tf.int64, trainable=False)
        self._inner = EpochTrainer(learner, cluster, self._global_step, bank)
        due = lambda _: self.position.global_step % experiment.checkpoint_every == 0  # noqa: E731
        save = orbit.actions.ConditionalAction(due, self._save)
        self._controller = orbit.Controller(
            global_step=self._global_step,
            trainer=self._inner,
            strategy=cluster.strategy,
            train_actions=[self._advance, self._require_finite, self._log, self._flush, save],
            steps_per_loop=self._steps_to_next_stop,
        )

    def train_epoch(self, batches, rates: list[float], title: str) -> None:
        """Trains the rest of an epoch.

        Args:
            batches: iterable of this worker's batches, at least as many as `rates`.
            rates: learning rates of the steps left in the epoch.
            title: of the progress line.

        Raises:
            DataError: the loss or the gradient is not finite, or an image cannot be read.
            Preempted: a worker was asked to stop; all have saved at the same step.
        """
        steps = len(rates)
        self._epoch_fields = {"stage": self.position.stage, "epoch": self.position.epoch}
        with heartbeat.slow_operation("preparing"):
            self._inner.start_epoch(batches, rates)
        done = self.position.step
        self._progress = Progress(
            done + steps, title, "steps", enabled=self._cluster.is_chief, done=done
        )
        with self._progress:
            # Orbit prints each inner loop; progress and metrics.jsonl have the same numbers.
            with contextlib.redirect_stdout(io.StringIO()):
                end = self.position.global_step + steps
                try:
                    self._controller.train(end, checkpoint_at_completion=False)
                except _Stop:
                    self._stop()
        self._inner.start_epoch(())  # a live pipeline can keep the interpreter from ending
        self.position = dataclasses.replace(self.position, epoch=self.position.epoch + 1, step=0)

    def _stop(self):
        """Saves at the step at which all workers have agreed to stop."""
        self._inner.start_epoch(())
        self._move()
        self._save(None)
        raise Preempted(f"was asked to stop; saved at step {self.position.global_step}")

    def _steps_to_next_stop(self, global_step) -> int:
        """Steps until metrics, a checkpoint or a part of the bank are due."""
        every = [self._experiment.log_every, self._experiment.checkpoint_every]
        if self._bank:
            every.append(self._flush_every())
        return min(steps - global_step % steps for steps in every)

    def _flush_every(self):
        """Steps between parts of the bank, together with the metrics where memory allows that."""
        log, most = self._experiment.log_every, self._bank.flush_every
        return most // log * log or most

    def _flush(self, _):
        if self._bank and self.position.global_step % self._flush_every() == 0:
            self._bank.flush()

    def _advance(self, output):
        steps = self._move()
        self._progress.update(steps, **{name: output[name] for name in _SHOWN})

    def _move(self) -> int:
        """Advances the position to the current step; returns the number of new steps."""
        steps = int(self._global_step) - self.position.global_step
        self.position = dataclasses.replace(
            self.position,
            step=self.position.step + steps,
            global_step=self.position.global_step + steps,
        )
        return steps

    def _require_finite(self, output):
        for name in ("loss", "gradient_norm", "head_gradient_norm"):
            if not math.isfinite(output[name]):
                self._keep_failed_step(output)
                raise DataError(
                    f"the {name.replace('_', ' ')} is {output[name]} at step "
                    f"{self.position.global_step}; the last checkpoint is finite and is kept. "
                    "Lower the learning rate, or look for corrupt images. "
                    f"{self._run.failed_step} has the metrics, `dc_tf replay` shows the images; "
                    "restarted with log_every=1, training reaches the same step."
                )
        if output.get("skipped_steps") and output["loss_scale"] <= LEAST:
            raise DataError(
                f"gradients at step {self.position.global_step} overflow float16 even without "
                "loss scaling; use model.compute_dtype=bfloat16, or a lower learning rate."
            )

    def _keep_failed_step(self, output):
        if self._cluster.is_chief:
            position = dataclasses.asdict(self.position)
            atomic.write_json(self._run.failed_step, position | self._epoch_fields | output)

    def _log(self, output):
        self._metrics.write_train(self.position.global_step, self._epoch_fields, output)

    def _save(self, _):
        if self._bank:
            self._bank.flush()
        self._checkpoints.save(self.position, self._learner)


class _Stop(Exception):
    """Raised on all workers at the step at which they stop."""


class EpochTrainer(orbit.AbstractTrainer):
    """Feeds the learner from one epoch's batches, for `orbit.Controller`.

    Args:
        learner: Learner.
        cluster: Cluster; its workers all run the same number of steps.
        global_step: int64 variable; counts the steps of the run.
        bank: StageBank that takes the features of each step, or None.
    """

    def __init__(self, learner, cluster, global_step, bank=None):
        self._bank = bank
        self._learner = learner
        self._cluster = cluster
        self._global_step = global_step
        self._batches = iter(())
        self._rates = iter(())
        self._learning_rate = None  # of the last step
        self._waited = self._seconds = 0.0
        self._warned = False
        self._results = collections.deque(maxlen=_LAG)  # of the last steps

    def start_epoch(self, batches, rates: Iterable[float] = ()) -> None:
        """Sets this worker's batches of the epoch, or of the rest of it.

        Args:
            batches: iterable.
            rates: learning rates of the steps.
        """
        self._batches = iter(batches)
        self._rates = iter(rates)
        self._learning_rate = None

    def train(self, num_steps) -> dict[str, float]:
        """Runs `num_steps` steps.

        Returns:
            learning_rate of the last step; means over the global batches of these steps;
            images_per_second over all workers; input_wait, the share of the workers' time spent
            waiting for images.

        Raises:
            DataError: an image cannot be read.
        """
        started, waited = time.monotonic(), 0.0
        num_steps = int(num_steps)
        sums = tf.zeros([len(step_metrics.NAMES)])
        for _ in range(num_steps):
            asked = time.monotonic()
            heartbeat.beat("waits for images")
            with data_errors():
                batch = next(self._batches)
            waited += time.monotonic() - asked
            self._set_learning_rate(next(self._rates))
            sums += self._step(batch)
            self._global_step.assign_add(1)
            self._stop_if_agreed()
        *sums, all_waited = self._cluster.world.all_sum(tf.concat([sums, [waited]], 0)).numpy()
        seconds = time.monotonic() - started
        self._watch_input(waited, seconds)
        metrics = {"learning_rate": self._learning_rate} | step_metrics.mean_metrics(sums)
        total = step_metrics.unpack(sums)
        if self._learner.loss_scale is not None:
            metrics["loss_scale"] = float(self._learner.loss_scale.value)
            metrics["skipped_steps"] = num_steps - round(total["steps"])
        return metrics | {
            "images_per_second": total["images"] / seconds,
            "input_wait": float(all_waited) / self._cluster.size / seconds,
        }

    def _set_learning_rate(self, rate):
        if rate != self._learning_rate:
            self._learner.set_learning_rate(rate)
        self._learning_rate = rate

    def _step(self, batch):
        stop = tf.constant(float(stop_request.requested()))
        with heartbeat.waiting("a training step"), contextlib.ExitStack() as stack:
            if not self._results:
                stack.enter_context(heartbeat.slow_operation("the first training step"))
            inputs = batch, tf.cast(self._global_step, tf.int32), stop
            if self._bank is None:
                result = self._learner.step(*inputs)
            else:
                result, features = self._learner.step_and_features(*inputs)
                self._bank.add(features)
        self._results.append(result)
        return result

    def _stop_if_agreed(self):
        """Stops all workers at the same step, since all read the same result of it."""
        if len(self._results) == _LAG and step_metrics.value(self._results[0], "stops") > 0:
            raise _Stop

    def _watch_input(self, waited, seconds):
        """Logs one warning if this worker is input-bound."""
        self._waited += waited
        self._seconds += seconds
        share = self._waited / self._seconds
        if self._warned or self._seconds < _INPUT_BOUND_AFTER_S or share < _INPUT_BOUND:
            return
        self._warned = True
        logging.warning(
            "training is input-bound: worker %d waits for images %.0f %% of its time. Give it more "
            "CPU cores, raise `threads`, convert the images with a smaller --short_side, or put "
            "the data set on a faster disk.",
            self._cluster.rank,
            100 * share,
        )
