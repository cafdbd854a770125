"""Optimizers of tensorflow-addons: their papers' steps, resets, averages, workers, resumption."""

import dataclasses
import os
import shutil
import tempfile

import numpy as np
import pytest
import runs
import stacks
import tensorflow as tf
import workers
from absl.testing import parameterized
from step_case import DECAY, Case, train

from dc_tf import experiment as experiment_lib
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError
from dc_tf.experiment import Model, Optimizer, Stage
from dc_tf.planning import training_cost
from dc_tf.planning.exchange import updated_in_blocks
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import complete_checkpoints
from dc_tf.training.monitoring.metrics import read
from dc_tf.training.optimizers import addons
from dc_tf.training.optimizers.by_name import check_optimizer, make_optimizer
from dc_tf.training.preflight import check_start
from dc_tf.training.step.classifier import Classifier

SHAPES = (3, 3, 2, 4), (5, 7), (7,), (7,)
# (slot, settings with which it is not that of the weights after four steps, but after eight)
WRAPPERS = {
    "MovingAverage": ("average", {"average_decay": 0.5}),
    "SWA": ("average", {"start_averaging": 1, "average_period": 2}),
    "Lookahead": ("slow", {"sync_period": 8}),
}


def settings(name="SGD", options=None, wrapper="", wrapper_options=None, **changes):
    optimizer = Optimizer(name=name, wrapper=wrapper, **changes)
    optimizer.options.override(options or {}, is_strict=False)
    optimizer.wrapper_options.override(wrapper_options or {}, is_strict=False)
    return optimizer


def weights(seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(np.float32) for shape in SHAPES]


def trained(optimizer, rates=(0.1, 0.1, 0.02), strategy=None):
    """(variables, their values after each step) with seeded gradients."""
    with (strategy or tf.distribute.get_strategy()).scope():
        variables = [tf.Variable(weight) for weight in weights()]
        optimizer.build(variables)

    @tf.function
    def step(gradients):
        optimizer.apply_gradients(
            zip(gradients, variables, strict=True), skip_gradients_aggregation=True
        )

    history = []
    for i, rate in enumerate(rates):
        optimizer.learning_rate.assign(rate)
        step([tf.constant(gradient) for gradient in weights(1 + i)])
        history.append([variable.numpy() for variable in variables])
    return variables, history


class RefusedTest(tf.test.TestCase):
    @stacks.needs_no_addons
    def test_without_the_package_a_name_is_refused_with_what_to_install(self):
        for optimizer, setting in (
            (settings("LAMB"), "name is 'LAMB'"),
            (settings("Yogi"), "name is 'Yogi'"),
            (settings("SGD", wrapper="SWA"), "wrapper is 'SWA'"),
        ):
            with self.assertRaisesRegex(
                ConfigError,
                rf"optimizer\.{setting}, of tensorflow-addons, which is not installed and works "
                rf"with TensorFlow 2\.15 only, not with {tf.__version__}.*DC_TF_STACK=tf215.*"
                r"constraints-tf215\.txt.*AdamW or Lion",
            ):
                check_optimizer(optimizer)
        for name in ("AdamW", "Lion", "LARS"):
            check_optimizer(settings(name))

    @stacks.needs_no_addons
    def test_that_is_before_work_starts_and_says_which_stage(self):
        stages = [{**runs.SETTINGS["stages"][0], "optimizer": {"name": "LAMB"}}]
        loaded = experiment_lib.load(params_override=[repr(runs.settings("/d", stages=stages))])
        with self.assertRaisesRegex(ConfigError, r"stages\[0\]\.optimizer\.name is 'LAMB'"):
            check_start(loaded, rows=1000, workers=1)

    def test_settings_of_wrappers_that_cannot_be_are_refused(self):
        for optimizer, message in (
            ({"wrapper": "EMA"}, r"wrapper is 'EMA'; use MovingAverage, SWA or Lookahead"),
            ({"wrapper_options": {"average_decay": 0.9}}, r"wrapper_options is .*wrapper only"),
        ):
            stages = [{**runs.SETTINGS["stages"][0], "optimizer": optimizer}]
            with self.assertRaisesRegex(ConfigError, message):
                experiment_lib.load(params_override=[repr(runs.settings("/d", stages=stages))])

    def test_heads_are_not_averaged_and_a_wrapped_one_is_not_updated_in_blocks(self):
        for wrapper, of_heads in (("MovingAverage", ""), ("SWA", ""), ("Lookahead", "Lookahead")):
            optimizer = settings("SGD", wrapper=wrapper, wrapper_options={"x": 1})
            self.assertEqual(optimizer.of_heads.wrapper, of_heads)
            self.assertEqual(bool(optimizer.of_heads.wrapper_options.as_dict()), bool(of_heads))
            self.assertEqual(updated_in_blocks(1 << 40, optimizer), not of_heads)


@stacks.needs_addons
class AddonsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("LAMB", {"weight_decay": 0.1, "exclude_from_weight_decay": ["Variable"]}),
        ("LAMB", {"beta_1": 0.5, "epsilon": 1e-3}),
        ("LazyAdam", {"beta_2": 0.9}),
        ("NovoGrad", {"grad_averaging": True, "weight_decay": 0.1}),
        ("Yogi", {"beta1": 0.8}),
        ("LAMB", {"global_clipnorm": 0.5}),
    )
    def test_each_takes_the_steps_of_the_package(self, name, options):
        import tensorflow_addons as tfa

        theirs = getattr(tfa.optimizers, name)(0.1, **options)
        variables = [tf.Variable(weight) for weight in weights()]
        _, history = trained(make_optimizer(settings(name, options)))
        for i, (rate, found) in enumerate(zip((0.1, 0.1, 0.02), history, strict=True)):
            theirs.learning_rate = rate
            theirs.apply_gradients(zip(map(tf.constant, weights(1 + i)), variables, strict=True))
            for ours, expected in zip(found, variables, strict=True):
                self.assertAllClose(ours, expected, rtol=1e-5, atol=1e-6)

    def test_lamb_is_algorithm_2(self):
        _, history = trained(make_optimizer(settings("LAMB", {"epsilon": 1e-3})))
        x = [np.float64(w) for w in weights()]
        m, v = ([np.zeros_like(w) for w in x] for _ in range(2))
        for t, (rate, found) in enumerate(zip((0.1, 0.1, 0.02), history, strict=True), 1):
            for i, g in enumerate(weights(t)):
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g**2
                r = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-3)
                x[i] -= rate * np.linalg.norm(x[i]) / np.linalg.norm(r) * r
                self.assertAllClose(found[i], x[i], rtol=1e-4, atol=1e-5)

    def test_a_moving_average_follows_the_weights_and_is_taken_in_the_end(self):
        optimizer = make_optimizer(
            settings("SGD", wrapper="MovingAverage", wrapper_options={"average_decay": 0.75})
        )
        self.assertTrue(optimizer.averages)
        variables, history = trained(optimizer)
        _, plain = trained(make_optimizer(settings("SGD")))
        for found, expected in zip(
            history, plain, strict=True
        ):  # the wrapper does not change the steps
            for ours, theirs in zip(found, expected, strict=True):
                self.assertAllClose(ours, theirs, rtol=1e-5, atol=1e-6)
        average = weights()
        for found in history:
            average = [0.75 * a + 0.25 * w for a, w in zip(average, found, strict=True)]
        for _ in range(2):  # they stay as they are
            optimizer.take_averages()
            for ours, expected in zip(variables, average, strict=True):
                self.assertAllClose(ours, expected, rtol=1e-5, atol=1e-6)

    def test_swa_is_the_mean_of_its_snapshots(self):
        options = {"start_averaging": 1, "average_period": 2}
        for strategy in (None, tf.distribute.MirroredStrategy(["/cpu:0"])):
            optimizer = make_optimizer(settings("LAMB", wrapper="SWA", wrapper_options=options))
            variables, history = trained(optimizer, [0.1] * 6, strategy)
            optimizer.take_averages()
            for i, variable in enumerate(variables):
                mean = np.mean([history[step][i] for step in (1, 3, 5)], 0)
                self.assertAllClose(variable.numpy(), mean, rtol=1e-5, atol=1e-6)

    def test_an_average_that_never_began_leaves_the_weights(self):
        options = {"start_averaging": 3}
        optimizer = make_optimizer(settings("Yogi", wrapper="SWA", wrapper_options=options))
        variables, history = trained(optimizer)
        with self.assertLogs("absl", "WARNING") as logs:
            optimizer.take_averages()
        self.assertIn("starts after 3 steps, and the stage has had 3", logs.output[0])
        for variable, last in zip(variables, history[-1], strict=True):
            self.assertAllEqual(variable, last)

    def test_lookahead_goes_back_by_a_share_every_few_steps(self):
        options = {"sync_period": 2, "slow_step_size": 0.25}
        optimizer = settings("SGD", wrapper="Lookahead", wrapper_options=options, momentum=0.0)
        _, history = trained(make_optimizer(optimizer), rates=(0.1,) * 4)
        slow, fast = weights(), weights()
        for step, found in enumerate(history):
            fast = [w - np.float32(0.1) * g for w, g in zip(fast, weights(1 + step), strict=True)]
            if step % 2:
                slow = [s + 0.25 * (f - s) for s, f in zip(slow, fast, strict=True)]
                fast = list(slow)
            for ours, expected in zip(found, fast, strict=True):
                self.assertAllClose(ours, expected, rtol=1e-5, atol=1e-6)

    def test_a_wrapper_clips_once_and_leaves_the_rest_to_what_it_wraps(self):
        for wrapper in ("", "Lookahead", "MovingAverage", "SWA"):
            optimizer = make_optimizer(
                settings("SGD", {"global_clipnorm": 0.5}, wrapper, momentum=0.0)
            )
            if not wrapper:
                _, expected = trained(optimizer, rates=(0.1,))
                continue
            _, found = trained(optimizer, rates=(0.1,))
            for ours, theirs in zip(found[0], expected[0], strict=True):
                self.assertAllClose(ours, theirs, rtol=1e-6)

    @parameterized.parameters(*((name, "") for name in addons.NAMES), ("LAMB", "Lookahead"))
    def test_a_head_that_is_drawn_anew_is_trained_as_if_it_were_the_first(self, name, wrapper):
        stage = Stage(optimizer=settings(name, wrapper=wrapper, learning_rate=0.01))
        used, new = (Classifier(stage, 3, 4, Solo()) for _ in range(2))
        gradients = [np.float32(np.arange(12).reshape(3, 4)), np.ones(4, np.float32)]
        used.reset(1)
        for _ in range(3):
            used.apply(gradients)
        for head in (used, new):
            head.optimizer.learning_rate.assign(0.02)
            head.reset(2)
            for _ in range(8):  # Lookahead goes back after six
                before = head.head.kernel.numpy()
                head.apply(gradients)
                self.assertNotAllEqual(head.head.kernel, before)
        self.assertAllEqual(used.head.kernel, new.head.kernel)
        self.assertAllClose(used.optimizer.learning_rate, 0.02)

    @parameterized.parameters(
        (("LAMB", {"beta_3": 0.1}), "options has beta_3; LAMB takes beta_1"),
        (("LAMB", {"beta_1": "much"}), "options.beta_1 is 'much'; use a number"),
        (("LAMB", {"clipnorm": "1e-3"}), "options.clipnorm is '1e-3'; use a number"),
        (("LAMB", {"decay": 0.1}), "options has decay"),
        (("LARS", {}, "SWA"), "wrapper is SWA, which cannot be around LARS; use .*Adam.*LAMB"),
        (("AdamW", {}, "SWA"), "cannot be around AdamW"),
        (("LAMB", {}, "SWA", {"average_decay": 0.5}), "wrapper_options has average_decay; SWA"),
        (("LAMB", {}, "MovingAverage", {"num_updates": 3}), "has num_updates"),
        (("LAMB", {}, "SWA", {"average_period": 0}), "does not fit SWA: .*>= 1.*; change it"),
        (("LAMBDA",), "use one of .*, or with tensorflow-addons LAMB, LazyAdam, NovoGrad, Yogi"),
    )
    def test_what_cannot_be_is_refused(self, arguments, message):
        with self.assertRaisesRegex(ConfigError, message):
            check_optimizer(settings(*arguments))

    def test_they_keep_what_is_planned(self):
        for name in addons.NAMES:
            for wrapper in ("", "SWA", "MovingAverage", "Lookahead"):
                optimizer = make_optimizer(settings(name, wrapper=wrapper))
                weight = tf.Variable(tf.zeros([1000]))
                optimizer.build([weight])
                kept = sum(v.shape.num_elements() for v in optimizer.variables) // 1000
                planned = training_cost.slots(settings(name, wrapper=wrapper))
                self.assertEqual(planned, kept, (name, wrapper))


@stacks.needs_addons
class WorkersTest(tf.test.TestCase, parameterized.TestCase):
    def check(self, name, wrapper):
        options = {"initial_accumulator_value": 1e-3} if name == "Yogi" else {"epsilon": 1e-3}
        optimizer = settings(
            name,
            options,
            wrapper,
            learning_rate=1e-3,
            weight_decay=DECAY,
            decay_filter="kernels",
        )
        case = Case(optimizer=optimizer, steps=2)
        (alone,) = workers.on_cluster(1, train, case)
        for one in workers.on_cluster(2, train, case):
            for names in (lambda w: w["trunk"], lambda w: w["super"]):
                moved = _distance(names(alone[0]), names(alone[1]))
                self.assertGreater(moved, 0)
                self.assertLess(_distance(names(one[1]), names(alone[1])) / moved, 1e-2)
            for s, head in one[1]["sub"].items():
                moved = _distance(alone[0]["sub"][s], alone[1]["sub"][s])
                self.assertLess(_distance(head, alone[1]["sub"][s]) / moved, 1e-2)

    def test_steps_and_averages_do_not_depend_on_the_number_of_workers(self):
        self.check("LAMB", "MovingAverage")

    @pytest.mark.slow
    def test_nor_do_those_of_other_wrappers_and_of_none(self):
        self.check("NovoGrad", "Lookahead")
        self.check("Yogi", "SWA")
        self.check("LazyAdam", "")

    def test_a_step_that_overflows_float16_changes_nothing_but_the_scale(self):
        self.check_overflow("LAMB", "MovingAverage", {})

    @parameterized.parameters(("SWA", {"average_period": 1}), ("Lookahead", {"sync_period": 1}))
    @pytest.mark.slow
    def test_nor_does_one_in_another_wrapper(self, wrapper, options):
        self.check_overflow("LAMB", wrapper, options)

    @parameterized.parameters("NovoGrad", "Yogi", "LazyAdam")
    @pytest.mark.extended
    def test_nor_does_one_of_another_optimizer(self, name):
        self.check_overflow(name, "MovingAverage", {})

    def check_overflow(self, name, wrapper, options):
        model = Model(dropout=False, compute_dtype="float16")
        optimizer = settings(name, {}, wrapper, options, learning_rate=0.01)
        case = Case(optimizer=optimizer, model=model, overflow=True)
        (one,) = workers.on_cluster(1, _with_slots, case)
        (taken,) = workers.on_cluster(1, _with_slots, dataclasses.replace(case, overflow=False))
        self.assertEqual((one["scale"], taken["scale"]), (2.0**99, 2.0**15))
        for when in ("before", "after"):
            self.assertEqual(one[when]["steps"], 0, when)
        for part, value in one["before"].items():
            self.assertAllEqual(one["after"][part], value, part)
        self.assertEqual(taken["after"]["steps"], 1)
        for part in ("weights", "slots", "wrapper"):
            self.assertNotAllEqual(taken["after"][part], taken["before"][part], part)


@stacks.needs_addons
class ResumedTest(tf.test.TestCase, parameterized.TestCase):
    """A run of two stages, LAMB inside a wrapper, on 128 images: 8 and 12 steps."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = runs.make_data(cls.folder)

    def run_of(self, wrapper, size, *stops, stages=2, name="LAMB"):
        options = {"initial_accumulator_value": 1e-3} if name == "Yogi" else {"epsilon": 1e-3}
        optimizer = {
            "name": name,
            "learning_rate": 0.01,
            "options": options,
            "wrapper": wrapper,
            "wrapper_options": WRAPPERS[wrapper][1],
            "schedule": "cosine",
        }
        of_run = [{**stage, "optimizer": optimizer} for stage in runs.SETTINGS["stages"][:stages]]
        ours = runs.settings(self.data, stages=of_run, checkpoint_every=4)
        workdir = tempfile.mkdtemp(dir=self.folder)
        for stop in (*stops, None):
            workers.on_cluster(size, _train_to, ours, workdir, stop)
        return workdir

    def assert_same_end(self, workdir, other):
        ours, expected = runs.end_state(workdir), runs.end_state(other)
        self.assertEqual(ours.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(ours[name], value, name)

    def check_stage(self, wrapper):
        alone = self.run_of(wrapper, 1, stages=1)
        self.assert_same_end(self.run_of(wrapper, 1, 6, "averages", stages=1), alone)
        self.check_slots(wrapper, alone, "08")

    def test_a_resumed_stage_equals_one_that_was_not_stopped(self):
        self.check_stage("MovingAverage")

    @pytest.mark.slow
    def test_so_does_a_resumed_run(self):
        # Inside RotNet, before its averages but after its last checkpoint, in a round, at the end.
        alone = self.run_of("MovingAverage", 1)
        self.assert_same_end(self.run_of("MovingAverage", 1, 6, "averages", 11, "averages"), alone)
        self.check_slots("MovingAverage", alone, "08", "20")

    @parameterized.parameters("SWA", "Lookahead")
    @pytest.mark.slow
    def test_so_does_a_resumed_stage_in_other_wrappers(self, wrapper):
        self.check_stage(wrapper)

    @parameterized.parameters("NovoGrad", "Yogi", "LazyAdam")
    @pytest.mark.extended
    def test_so_does_a_resumed_stage_of_another_optimizer(self, name):
        alone = self.run_of("MovingAverage", 1, stages=1, name=name)
        stopped = self.run_of("MovingAverage", 1, 6, "averages", stages=1, name=name)
        self.assert_same_end(stopped, alone)

    @pytest.mark.slow
    def test_a_resumed_run_of_two_workers_too_and_it_is_nearly_that_of_one(self):
        alone, both = (self.run_of("MovingAverage", size) for size in (1, 2))
        self.assert_same_end(self.run_of("MovingAverage", 2, "averages", 11), both)
        self.check_slots("MovingAverage", both, "08", "20")
        one, two = (
            [m["loss"] for m in read(RunDir(path).metrics) if m["event"] == "train"]
            for path in (alone, both)
        )
        self.assertAllClose(one[:8], two[:8], rtol=1e-3)
        # Features differ by rounding, so rows on a border of clusters may change sides.
        self.assertAllClose(one, two, rtol=0.05)

    def check_slots(self, wrapper, workdir, *ends):
        """Slots of the trunk differ from its weights inside a stage, and are these at its end."""
        found = complete_checkpoints(RunDir(workdir).checkpoints)
        steps = {path[-2:]: _trunk(path, WRAPPERS[wrapper][0]) for path in found}
        for step in ends:
            for weight, kept in steps[step]:
                self.assertAllEqual(weight, kept, step)
        self.assertTrue(any((weight != kept).any() for weight, kept in steps["04"]))


def _trunk(path, slot):
    """[(weight, its slot)] of the trunk in a checkpoint."""
    reader = tf.train.load_checkpoint(os.path.join(path, "shared"))
    saved = reader.get_variable_to_shape_map()
    keys = [key for key in saved if key.startswith("trunk/") and f"/{slot}/" in key]
    assert keys
    ending = "/.ATTRIBUTES/VARIABLE_VALUE"
    own = [key.partition("/.OPTIMIZER_SLOT")[0] + ending for key in keys]
    return [(reader.get_tensor(a), reader.get_tensor(b)) for a, b in zip(own, keys, strict=True)]


def _train_to(cluster, settings, workdir, stop):
    """Trains; gives up without saving after step `stop`, or where "averages" are to be taken."""
    from dc_tf.training import trainer
    from dc_tf.training.step import learner

    log, take = trainer.StageTrainer._log, learner.Learner.take_averages

    def log_or_stop(self, output):
        if self.position.global_step == stop:
            raise runs.Stopped
        log(self, output)

    def take_or_stop(self):
        if stop == "averages":
            raise runs.Stopped
        take(self)

    trainer.StageTrainer._log, learner.Learner.take_averages = log_or_stop, take_or_stop
    try:
        return runs.train(cluster, settings, workdir)
    finally:
        trainer.StageTrainer._log, learner.Learner.take_averages = log, take


def _with_slots(cluster, case):
    """Weights, slots and steps of all optimizers before and after a step of `case`."""
    from dc_tf.training.step import learner as learner_module

    kept, found = [], {}
    begin = learner_module.Learner.start_round

    def start_round(self, index):
        begin(self, index)
        kept.append(self)
        found["before"] = _state(self)

    learner_module.Learner.start_round = start_round
    try:
        found["scale"] = train(cluster, case)["scale"]
    finally:
        learner_module.Learner.start_round = begin
    found["after"] = _state(kept[0])
    return found


def _state(learner):
    values = [[v.numpy() for v in optimizer.variables] for optimizer in learner.optimizers()]
    parts = {"weights": learner.shared_weights, "super": learner.heads.super_head.weights}
    found = {
        name: np.concatenate([v.numpy().ravel() for v in part]) for name, part in parts.items()
    }
    found["slots"] = np.concatenate([np.ravel(v) for v in sum(values, [])])
    wrapper = learner.trunk_optimizer._optimizer
    (name,) = wrapper.get_slot_names()
    of_wrapper = [wrapper.get_slot(weight, name) for weight in learner.shared_weights]
    found["wrapper"] = np.concatenate([v.numpy().ravel() for v in of_wrapper])
    return found | {"steps": int(values[0][0])}


def _distance(a, b):
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)))


if __name__ == "__main__":
    tf.test.main()
