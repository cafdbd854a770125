"""Results that lie in a run folder: read for what they are, passed over where they are none."""

import json
import os
import tempfile

import pictures
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.report.sections.evaluations import find

RESULT = {
    "task": "knn",
    "metric": "top1",
    "layers": {"conv1": {"top1": 0.25}, "conv2": {"top1": 0.5}},
    "random_init": {"conv1": {"top1": 0.125}},
    "below_random_init": [],
    "test_rows": 100,
}


class EvaluationsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

    def write(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def test_a_result_by_layer_has_a_table_and_a_chart(self):
        self.write("knn.json", RESULT)
        (found,) = find(self.folder).by_layer
        self.assertEqual(found.title, "k-NN, top-1")
        rows = [("conv1", 25.0, 12.5, False), ("conv2", 50.0, None, True)]
        self.assertEqual(found.rows, rows)
        self.assertEqual([line.name for line in found.chart.lines], ["trained", "untrained"])
        self.assertLen(found.chart.lines[1].points, 1)
        self.assertEqual(found.about, "100 test images")

    def test_layers_that_were_not_compared_do_not_read_as_safe(self):
        self.write("knn.json", RESULT)
        self.write("low.json", RESULT | {"task": "low_shot", "random_init": None})
        compared, alone = find(self.folder).by_layer
        self.assertEqual((compared.below, alone.below), ([], None))

    def test_one_result_is_shown_once(self):
        named = self.write("knn.json", RESULT)
        entry = {"task": "knn", "metric": "top1", "layers": {"conv1": 0.25, "conv2": 0.5}}
        self.write("evaluations.json", [entry, "no entry"])
        found = find(self.folder, [named]).by_layer
        self.assertLen(found, 1)
        self.assertEqual(found[0].rows[0][2], 12.5)  # the one with an untrained network

    def test_what_the_run_remembers_is_shown_without_a_file_of_its_own(self):
        self.write("evaluations.json", [RESULT | {"random_init": None}])
        self.assertLen(find(self.folder).by_layer, 1)

    def test_results_without_layers_are_tables_and_plots_are_pictures(self):
        result = {"task": "voc07_detection", "map": 0.5, "seconds": 7.0, "train": "VOC"}
        self.write("voc.json", result)
        pictures.write(self.folder, "layers.png", pictures.encoded())
        found = find(self.folder)
        self.assertEqual(found.plain[0].title, "VOC07 detection")
        self.assertEqual(found.plain[0].metrics, {"map": 0.5})
        self.assertEqual(found.pictures[0][0], "layers.png")
        self.assertStartsWith(found.pictures[0][1], "data:image/png;base64,")

    def test_files_of_other_kinds_are_passed_over(self):
        strange = RESULT | {"random_init": [1], "below_random_init": 3, "test_rows": "x"}
        strange["layers"] = {"conv1": {"top1": "x"}, "conv2": None}
        for name, content in (
            ("data.json", {"fingerprint": "x"}),
            ("list.json", [1]),
            ("torn.json", "{"),
            ("figureless.json", {"task": "knn", "layers": {}}),
            ("nmi.json", {"task": "nmi", "clusterings": []}),
            ("strange.json", strange),
        ):
            self.write(name, content)
        found = find(self.folder)
        self.assertEqual([row[:2] for row in found.by_layer[0].rows], [("conv1", 0), ("conv2", 0)])
        self.assertEmpty(found.plain)
        self.assertEmpty(find(None).by_layer)

    def test_a_named_file_must_be_a_result(self):
        for path in (self.write("list.json", [1]), os.path.join(self.folder, "none.json")):
            with self.assertRaisesRegex(ConfigError, "is not a JSON result of `dc_tf evaluate`"):
                find(None, [path])


if __name__ == "__main__":
    tf.test.main()
