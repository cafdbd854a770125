"""TF_CONFIG is understood in its usual forms and refused, with an example, in others."""

import json

import tensorflow as tf

from dc_tf.distributed.task import parse_tf_config
from dc_tf.errors import ConfigError

TWO = {"worker": ["a:1", "b:2"]}
FIRST = {"type": "worker", "index": 0}


def text(cluster, task=None):
    return json.dumps({"cluster": cluster, "task": FIRST if task is None else task})


# TF_CONFIG: (addresses by rank, rank).
TAKEN = {
    text(TWO, {"type": "worker", "index": 1}): (["a:1", "b:2"], 1),
    text(TWO, {"type": "worker", "index": "1"}): (["a:1", "b:2"], 1),
    text({"worker": ["a:1"]}): (["a:1"], 0),
    text({"worker": ["b:1"], "chief": ["a:1"]}): (["a:1", "b:1"], 1),
    text({"worker": ["b:1"], "chief": ["a:1"]}, {"type": "chief", "index": 0}): (["a:1", "b:1"], 0),
    text({"worker": ["b:1"], "master": ["a:1"]}, {"type": "master", "index": 0}): (
        ["a:1", "b:1"],
        0,
    ),
    text({"worker": ["b:1"], "master": ["a:1"]}, {"type": "chief", "index": 0}): (
        ["a:1", "b:1"],
        0,
    ),
    text({"chief": ["a:1"]}, {"type": "chief", "index": 0}): (["a:1"], 0),
    text({"worker": ["a:1", "b:2"], "ps": [], "chief": []}): (["a:1", "b:2"], 0),
    text({"worker": ["a:1", "b:2"], "evaluator": ["c:3"]}): (["a:1", "b:2"], 0),
    text({"worker": ["[::1]:2222", "[fe80::1%eth0]:2222"]}): (
        ["[::1]:2222", "[fe80::1%eth0]:2222"],
        0,
    ),
    text({"worker": ["Host-A.example:65535", "10.0.0.1:1"]}): (
        ["Host-A.example:65535", "10.0.0.1:1"],
        0,
    ),
    json.dumps({"cluster": TWO, "task": FIRST, "environment": "cloud"}): (["a:1", "b:2"], 0),
}

# What platforms set on one of their machines: (TF_CONFIG, size of the cluster, rank).
PLATFORMS = {
    "Kubeflow TFJob, workers": (
        {
            "cluster": {"worker": [f"dc-tf-worker-{i}.default.svc:2222" for i in range(4)]},
            "task": {"type": "worker", "index": 3},
            "environment": "cloud",
        },
        (4, 3),
    ),
    "Kubeflow TFJob, chief, workers and evaluator": (
        {
            "cluster": {
                "chief": ["dc-tf-chief-0.default.svc:2222"],
                "evaluator": ["dc-tf-evaluator-0.default.svc:2222"],
                "worker": ["dc-tf-worker-0.default.svc:2222", "dc-tf-worker-1.default.svc:2222"],
            },
            "task": {"type": "worker", "index": 1},
            "environment": "cloud",
        },
        (3, 2),
    ),
    "Vertex AI, chief": (
        {
            "cluster": {
                "chief": ["cmle-training-workerpool0-8f3ab2-0:2222"],
                "worker": [f"cmle-training-workerpool1-8f3ab2-{i}:2222" for i in range(3)],
            },
            "environment": "cloud",
            "task": {"type": "chief", "index": 0, "trial": ""},
            "job": '{"scale_tier": "CUSTOM"}',
        },
        (4, 0),
    ),
    "Vertex AI, one machine": (
        {
            "cluster": {"chief": ["127.0.0.1:2222"]},
            "environment": "cloud",
            "task": {"type": "chief", "index": 0},
        },
        (1, 0),
    ),
    "AI Platform, with the older name of the chief": (
        {
            "cluster": {"master": ["cmle-master-0:2222"], "worker": ["cmle-worker-0:2222"]},
            "environment": "cloud",
            "task": {"type": "worker", "index": 0},
        },
        (2, 1),
    ),
    "SageMaker": (
        {
            "cluster": {"worker": ["algo-1:8890", "algo-2:8890"]},
            "environment": "cloud",
            "task": {"index": 1, "type": "worker"},
        },
        (2, 1),
    ),
    "Docker Compose, names with underscores": (
        {
            "cluster": {"worker": ["trial_worker_1:2222", "trial_worker_2:2222"]},
            "task": {"type": "worker", "index": 0},
        },
        (2, 0),
    ),
    "Ray on IPv6": (
        {
            "cluster": {"worker": ["[2001:DB8::10]:40001", "[2001:db8::10]:40002"]},
            "task": {"type": "worker", "index": 1},
        },
        (2, 1),
    ),
    "Windows domain, names in upper case": (
        {
            "cluster": {"worker": ["GPU-01.SITE.EXAMPLE:2222", "GPU-02.SITE.EXAMPLE:2222"]},
            "task": {"type": "worker", "index": "1"},
        },
        (2, 1),
    ),
}

# TF_CONFIG: what its refusal says.
REFUSED = {
    "nonsense": "is 'nonsense', which is not JSON",
    '{"cluster":': "which is not JSON",
    "'{}'": "which is not JSON",
    '{"cluster": {}, "cluster": {}}': "'cluster' is given twice",
    "[]": r"is '\[\]', which is not a JSON object",
    "3": "which is not a JSON object",
    "null": "which is not a JSON object",
    '"{}"': "which is not a JSON object",
    '{"task": {"type": "worker", "index": 0}}': "has no cluster",
    text(None): "has the cluster null",
    text(["a:1", "b:2"]): r"has the cluster \[\"a:1\", \"b:2\"\]",
    text("a:1"): "has the cluster 'a:1'",
    text(3): "has the cluster 3",
    text({}): "names no workers",
    text({"worker": []}): "names no workers",
    text({"worker": "a:1"}): "has 'a:1' as 'worker'; it must be a list",
    text({"worker": None}): "has null as 'worker'",
    text({"worker": {"0": "a:1"}}): "as 'worker'; it must be a list",
    text({"worker": [2222, 2223]}): "has the address 2222, which is not host:port",
    text({"worker": ["a:1", None]}): "has the address null",
    text({"worker": ["a:1", ""]}): "has the address ''",
    text({"worker": ["a:1", "b"]}): "has the address 'b', which is not host:port",
    text({"worker": ["a:1", "b:"]}): "has the address 'b:'",
    text({"worker": ["a:1", "b:x"]}): "has the address 'b:x'",
    text({"worker": ["a:1", ":2"]}): "has the address ':2'",
    text({"worker": ["a:1", "b:99999"]}): "'b:99999', whose port is not in 1 to 65535",
    text({"worker": ["a:1", "b:0"]}): "'b:0', whose port",
    text({"worker": ["a:1", "b:-2"]}): "has the address 'b:-2'",
    text({"worker": ["a:1", "b:2.5"]}): "has the address 'b:2.5'",
    text({"worker": ["a:1", " b:2"]}): "has the address ' b:2'",
    text({"worker": ["a:1", "b:２２"]}): "has the address",
    text({"worker": ["a:1", "::1:2222"]}): r"has the address '::1:2222'.*\[IPv6\]:port",
    text({"worker": ["a:1", "grpc://b:2"]}): "has the address 'grpc://b:2'",
    text({"worker": ["a:1", "a:1"]}): "has the address a:1 twice",
    text({"worker": ["a:1"], "chief": ["a:1"]}): "has the address a:1 twice",
    text({"worker": ["a:1", "A:01"]}): "has a:1 and A:01, which are one address",
    text({"worker": ["localhost:1", "127.0.0.1:1"]}): "which are one address",
    text({"worker": ["[FE80::1]:1", "[fe80::1]:1"]}): "which are one address",
    text({"worker": ["[fe80:0:0:0:0:0:0:1]:1", "[fe80::1]:1"]}): "which are one address",
    text({"worker": ["[0:0:0:0:0:0:0:1]:1", "localhost:1"]}): "which are one address",
    text({"worker": ["my_host:1", "MY_HOST.:1"]}): "which are one address",
    text({"Worker": ["a:1", "b:2"]}): "unknown job 'Worker'; use 'worker'",
    text({"WORKERS": ["a:1"]}): "unknown job 'WORKERS'; use 'chief' and 'worker'",
    text({"worker": ["a:1"], "ps": ["b:1"]}): "has 1 tasks of the job 'ps'",
    text({"ps": ["a:1"]}, {"type": "ps", "index": 0}): "no parameter servers",
    text({"worker": ["c:1"], "chief": ["a:1", "b:1"]}): "has 2 chiefs",
    text({"worker": ["c:1"], "chief": ["a:1"], "master": ["b:1"]}): "has a chief and a master",
    json.dumps({"cluster": TWO}): "has no task",
    json.dumps({"cluster": TWO, "task": None}): "has the task null",
    json.dumps({"cluster": TWO, "task": [0]}): r"has the task \[0\]",
    text(TWO, {"type": "worker"}): "has the task index null",
    text(TWO, {"index": 0}): "has the task type null",
    text(TWO, {"type": 0, "index": 0}): "has the task type 0",
    text(TWO, {"type": "WORKER", "index": 0}): "has the task type 'WORKER'",
    text(TWO, {"type": "worker", "index": 2}): "this process worker 2, and its cluster has 2",
    text(TWO, {"type": "worker", "index": -1}): "has the task index -1",
    text(TWO, {"type": "worker", "index": True}): "has the task index true",
    text(TWO, {"type": "worker", "index": 0.0}): "has the task index 0.0",
    text(TWO, {"type": "worker", "index": "-1"}): "has the task index '-1'",
    text(TWO, {"type": "worker", "index": "x"}): "has the task index 'x'",
    text(TWO, {"type": "chief", "index": 0}): "this process chief 0, and its cluster has 0",
    text(TWO, {"type": "evaluator", "index": 0}): "an evaluator, which takes no part",
}


class TaskTest(tf.test.TestCase):
    def test_without_it_a_process_is_alone(self):
        for given in (None, "", "{}", "  ", "\n", "{ }"):
            task = parse_tf_config(given)
            self.assertEqual((task.size, task.rank, task.addresses), (1, 0, ()))
            self.assertEqual(task.tf_config(), "{}")

    def test_every_usual_form_gives_addresses_by_rank_chief_first(self):
        for given, (addresses, rank) in TAKEN.items():
            with self.subTest(given):
                task = parse_tf_config(given)
                self.assertEqual((list(task.addresses), task.rank), (addresses, rank))

    def test_what_platforms_set_gives_sizes_and_ranks(self):
        for name, (config, expected) in PLATFORMS.items():
            with self.subTest(name):
                task = parse_tf_config(json.dumps(config))
                self.assertEqual((task.size, task.rank), expected)
                self.assertEqual(parse_tf_config(task.tf_config()), task)
                if task.size > 1:
                    own = config["cluster"][config["task"]["type"]][int(config["task"]["index"])]
                    self.assertEqual(task.addresses[task.rank], own)

    def test_a_machine_that_does_not_train_is_refused(self):
        config = PLATFORMS["Kubeflow TFJob, chief, workers and evaluator"][0]
        given = json.dumps(config | {"task": {"type": "evaluator", "index": 0}})
        with self.assertRaisesRegex(ConfigError, "an evaluator, .* start only chief and workers"):
            parse_tf_config(given)
        config = {**config, "cluster": {**config["cluster"], "ps": ["dc-tf-ps-0:2222"]}}
        with self.assertRaisesRegex(ConfigError, "1 tasks of the job 'ps'; .* leave them out"):
            parse_tf_config(json.dumps(config))

    def test_what_tensorflow_gets_is_read_as_the_same_task(self):
        for given in TAKEN:
            with self.subTest(given):
                task = parse_tf_config(given)
                self.assertEqual(parse_tf_config(task.tf_config()), task)
                self.assertLessEqual(
                    json.loads(task.tf_config())["cluster"].keys(), {"chief", "worker"}
                )

    def test_every_other_form_is_refused_in_one_line_with_what_would_work(self):
        for given, message in REFUSED.items():
            with self.subTest(given), self.assertRaisesRegex(ConfigError, message) as caught:
                parse_tf_config(given)
            self.assertEndsWith(str(caught.exception), "}}.")
            self.assertNotIn("\n", str(caught.exception))
            self.assertStartsWith(str(caught.exception), "TF_CONFIG ")

    def test_a_long_one_is_shown_in_part(self):
        with self.assertRaises(ConfigError) as caught:
            parse_tf_config("x" * 100_000)
        self.assertLess(len(str(caught.exception)), 600)

    def test_workers_of_one_host_are_counted(self):
        task = parse_tf_config(
            text({"worker": ["b:1", "b:2"], "chief": ["a:1"]}, {"type": "worker", "index": 1})
        )
        self.assertEqual((task.rank, task.size, task.local_index, task.local_size), (2, 3, 1, 2))


if __name__ == "__main__":
    tf.test.main()
