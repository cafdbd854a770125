"""TF_CONFIG is understood in its usual forms and refused, with an example, in others."""

import json

import tensorflow as tf

from dc_tf.distributed.cluster import parse_tf_config
from dc_tf.errors import ConfigError


class TfConfigTest(tf.test.TestCase):
    def test_without_it_a_process_is_alone(self):
        for text in (None, "", "{}", "  "):
            self.assertEqual(parse_tf_config(text).size, 1)

    def test_a_chief_comes_before_the_workers(self):
        cluster = {"worker": ["b:1", "b:2"], "chief": ["a:1"]}
        text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
        task = parse_tf_config(text)
        self.assertEqual((task.rank, task.size, task.local_index), (2, 3, 1))
        self.assertEqual(task.addresses, ("a:1", "b:1", "b:2"))

    def test_what_cannot_be_understood_is_refused_with_what_would_work(self):
        worker = {"worker": ["a:1", "a:2"]}
        for text, message in [
            ("nonsense", "expected the form"),
            (json.dumps({"cluster": {"worker": "a:1"}, "task": {}}), "expected the form"),
            (json.dumps({"cluster": worker}), "expected the form"),
            (json.dumps({"cluster": worker, "task": {"type": "worker", "index": 2}}), "not one of"),
            (
                json.dumps({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}),
                "'chief' and 'worker'",
            ),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                parse_tf_config(text)


if __name__ == "__main__":
    tf.test.main()
