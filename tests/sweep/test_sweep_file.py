import os

import sweeps
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.sweep.sweep_file import Evaluation, Plot, Point, Variant, read_sweep


def read(**fields):
    return read_sweep(sweeps.changed(**fields), data="DATA", test="TEST")


class SweepFileTest(tf.test.TestCase):
    def test_the_forms_of_an_axis(self):
        sweep = read(
            axes={
                "clusters": {"setting": "stages[0].clusters", "values": [1, 2]},
                "images": {"fractions": [0.25, 1]},
                "input": {"points": {"RGB": {"settings": {"model.sobel": False}}, "Sobel": None}},
            }
        )
        clusters, images, given = sweep.axes
        self.assertEqual(clusters.points[1], Point("2", {"stages[0].clusters": 2}))
        self.assertEqual(images.points, (Point("0.25", {}, 0.25), Point("1", {}, 1.0)))
        self.assertEqual(given.points, (Point("RGB", {"model.sobel": False}), Point("Sobel")))

    def test_a_file_without_variants_has_one_without_a_name(self):
        self.assertEqual(read(variants={}).variants, (Variant(),))

    def test_flags_precede_the_file_and_paths_become_absolute(self):
        sweep = read_sweep(sweeps.changed(data="OTHER", train="KIT"), data="DATA")
        self.assertEqual(sweep.data, os.path.abspath("DATA"))
        self.assertEqual((sweep.train, sweep.test), (os.path.abspath("KIT"), ""))

    def test_a_file_and_a_mapping_are_read_alike(self):
        path = os.path.join(self.get_temp_dir(), "mine.yaml")
        with open(path, "w") as file:
            file.write(repr(sweeps.SWEEP).replace("None", "null"))
        found, expected = read_sweep(path, data="D"), read_sweep(sweeps.SWEEP, data="D")
        self.assertEqual((found.path, expected.path), (path, "the sweep"))
        for name in ("title", "axes", "variants", "evaluations", "seeds", "settings"):
            self.assertEqual(getattr(found, name), getattr(expected, name), name)

    def test_evaluations_and_plot_have_defaults(self):
        sweep = read(evaluations={"a": {"task": "nmi"}})
        self.assertEqual(sweep.evaluations, (Evaluation("a", "nmi"),))
        self.assertEqual(sweep.plot, Plot())

    def test_an_untrained_variant_varies_over_the_axes_of_the_trained_one(self):
        sweep = read(variants={"r": {"untrained": "t"}, "t": {}, "u": {"axes": []}})
        self.assertEqual([axis.name for axis in sweep.axes_of(sweep.variants[0])], ["images"])
        self.assertEmpty(sweep.axes_of(sweep.variants[2]))

    def test_mistakes_are_refused_with_their_place(self):
        one = {"setting": "seed", "values": [1]}
        for message, fields in (
            (r"the sweep: unknown setting 'axis'; known here: axes", {"axis": {}}),
            (r"axes.a is 3; give \{setting", {"axes": {"a": 3}}),
            (r"axes.a has setting; give", {"axes": {"a": {"setting": "b"}}}),
            (r"axes.a has nothing; give", {"axes": {"a": {}}}),
            (r"axes.a.values is \[\]; give a list", {"axes": {"a": {**one, "values": []}}}),
            (r"axes.a has 1 twice", {"axes": {"a": {**one, "values": [1, 1]}}}),
            (r"axes.a: the fraction 1.5 cannot", {"axes": {"a": {"fractions": [1.5]}}}),
            (r"axes.a.fractions: fraction is 'x'", {"axes": {"a": {"fractions": ["x"]}}}),
            (r"axes.a.points is None; give", {"axes": {"a": {"points": None}}}),
            (r"axes.a.points.b: unknown setting 'c'", {"axes": {"a": {"points": {"b": {"c": 1}}}}}),
            (r"points.b.label cannot be set", {"axes": {"a": {"points": {"b": {"label": "c"}}}}}),
            (r"axes.layer has the name of a column", {"axes": {"layer": one}}),
            (r"variants.a is 3; expected a mapping", {"variants": {"a": 3}}),
            (r"variants.a.name cannot be set", {"variants": {"a": {"name": "b"}}}),
            (r"variants.a.after is 'b'; use another variant: c", {"variants": AFTER_NONE}),
            (r"variants.a.after leads back", {"variants": CIRCLE}),
            (r"a.after is 'b', which also varies over images", {"variants": FEWER_AXES}),
            (r"variants.a.axes has x; the file has images", {"variants": {"a": {"axes": ["x"]}}}),
            (r"a.untrained is 'b', which is not trained and ev", {"variants": UNEVALUATED}),
            (r"variants.a has stages beside untrained", {"variants": TRAINED_TOO}),
            (r"variants: none is evaluated", {"variants": {"a": {"evaluate": False}}}),
            (r"variants.a: evaluate is 'x'", {"variants": {"a": {"evaluate": "x"}}}),
            (r"evaluations is missing; give at least one", {"evaluations": {}}),
            (r"evaluations.a has no task", {"evaluations": {"a": {}}}),
            (r"evaluations.a.layers is empty", {"evaluations": {"a": {"task": "b", "layers": []}}}),
            (r"evaluations.a/b is the name of a file", {"evaluations": {"a/b": {"task": "knn"}}}),
            (r"plot.x is 'z'; use one of images, variant, layer", {"plot": {"x": "z"}}),
            (r"paper is 'table9'; use one of table3", {"paper": "table9"}),
            (r"seeds is \[1, 1\]; give different", {"seeds": [1, 1]}),
            (r"the sweep: seeds is \(-1,\); use 0", {"seeds": [-1]}),
        ):
            with self.assertRaisesRegex(ConfigError, f"^the sweep.*{message.split('sweep')[-1]}"):
                read(**fields)
        with self.assertRaisesRegex(ConfigError, "^the sweep, data is missing.*--data=DATA"):
            read_sweep(sweeps.SWEEP)

    def test_a_file_that_is_not_there_lists_the_presets(self):
        with self.assertRaisesRegex(ConfigError, "'mine', which .*of sweep: .*methods_small"):
            read_sweep("mine")


AFTER_NONE = {"a": {"after": "b"}, "c": {}}
CIRCLE = {"a": {"after": "b"}, "b": {"after": "a"}}
FEWER_AXES = {"a": {"after": "b", "axes": []}, "b": {}}
UNEVALUATED = {"a": {"untrained": "b"}, "b": {"evaluate": False}}
TRAINED_TOO = {"a": {"untrained": "b", "stages": ["rotnet"]}, "b": {}}


if __name__ == "__main__":
    tf.test.main()
