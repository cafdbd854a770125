"""The paper's results are shown on the paper's data sets only."""

import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.evaluation.finetune import task as finetune
from dc_tf.evaluation.frozen import linear_probe
from dc_tf.evaluation.paper import (
    check_setting,
    data_of,
    labelled_data,
    linear_results,
    retrieval_data,
    voc_data,
)
from dc_tf.evaluation.retrieval import task as retrieval

VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()
TRAINVAL, TEST = ("trainval", 5011), ("test", 4952)


class PaperTest(tf.test.TestCase):
    def test_data_sets_are_known_by_what_is_in_them(self):
        for facts, name in (
            (labelled_data(1000, 1_281_167, 50_000), "imagenet"),
            (labelled_data(1000, 1_281_167 - 5_000, 50_000 - 12), "imagenet"),
            (labelled_data(1000, 1_200_000, 50_000), ""),
            (labelled_data(1000, 1_281_167, 60_000), ""),
            (labelled_data(100, 1_281_167, 50_000), ""),
            (labelled_data(205, 2_448_873, 20_500), "places205"),
            (labelled_data(7, 1_067, 267), ""),
            (voc_data(VOC, TRAINVAL, TEST), "voc07"),
            (voc_data(VOC[::-1], TRAINVAL, TEST), "voc07"),
            (voc_data(VOC, ("train", 2501), ("val", 2510)), ""),
            (voc_data(["RBC", "WBC", "Platelets"], ("trainval", 5011), ("test", 4952)), ""),
            (voc_data(VOC, ("trainval", 11_540), ("test", 4952)), ""),
            (retrieval_data("classic", 5_062, 55), "oxford5k"),
            (retrieval_data("classic", 6_392, 55), "paris6k"),
            (retrieval_data("revisited", 5_063, 55), ""),
            (retrieval_data("groups", 5_063, 55), ""),
            (retrieval_data("classic", 12, 2), ""),
        ):
            self.assertEqual(data_of("auto", facts), name, facts)

    def test_a_task_recognises_only_data_sets_that_it_has_results_for(self):
        facts = labelled_data(205, 2_448_873, 20_500)
        self.assertEqual(data_of("auto", facts, ("imagenet",)), "")

    def test_the_setting_declares_the_data_set_or_hides_the_results(self):
        self.assertEqual(data_of("places205", labelled_data(7, 10, 10)), "places205")
        self.assertEqual(data_of("", labelled_data(1000, 1_281_167, 50_000)), "")
        self.assertEqual(linear_results(""), {})

    def test_a_name_without_results_is_rejected(self):
        for make in (linear_probe.Protocol, finetune.Protocol, retrieval.Protocol):
            with self.assertRaisesRegex(ConfigError, "paper is 'mine'; use one of auto, "):
                make(paper="mine")
        check_setting("auto", ("voc07",))


if __name__ == "__main__":
    tf.test.main()
