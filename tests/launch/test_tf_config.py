"""TF_CONFIG from the variables of schedulers: tables of what they set and what comes of it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import tensorflow as tf

from dc_tf.distributed.task import parse_tf_config

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "tf_config.py"
_spec = importlib.util.spec_from_file_location("tf_config", SCRIPT)
tf_config = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tf_config)

SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
POD = {
    "JOB_COMPLETION_INDEX": "3",
    "DC_TF_JOB": "dc-tf",
    "DC_TF_SERVICE": "workers",
    "DC_TF_WORKERS": "4",
}


class NodeListTest(tf.test.TestCase):
    def test_every_form_of_a_node_list(self):
        for text, nodes in [
            ("gpu1", ["gpu1"]),
            ("a,b", ["a", "b"]),
            ("node[01-03,07],gpu1", ["node01", "node02", "node03", "node07", "gpu1"]),
            ("n[8-11]", ["n8", "n9", "n10", "n11"]),
            ("n[098-101]", ["n098", "n099", "n100", "n101"]),
            ("rack[1-2]n[3,5]", ["rack1n3", "rack1n5", "rack2n3", "rack2n5"]),
            ("n[1-2].site", ["n1.site", "n2.site"]),
            ("a-b-[1],c", ["a-b-1", "c"]),
        ]:
            self.assertEqual(tf_config.expand_nodes(text), nodes, text)

    def test_what_is_no_node_list_is_refused(self):
        wrong = ["", ",", "a,,b", "n[1", "n1]", "n[]", "n[a-b]", "n[3-1]", "n[1-2]]", "n[[1]]"]
        wrong += ["n[0-999999999]", "n[1-99999][1-99999]x"]
        for text in wrong:
            with self.assertRaises(tf_config.UsageError, msg=text):
                tf_config.expand_nodes(text)

    def test_tasks_per_node(self):
        for text, counts in [("1", [1]), ("2(x3),1", [2, 2, 2, 1]), ("8(x2)", [8, 8])]:
            self.assertEqual(tf_config.expand_counts(text), counts)
        for text in ("", "0", "2(x0)", "x", "2(3)", "-1"):
            with self.assertRaises(tf_config.UsageError, msg=text):
                tf_config.expand_counts(text)


class FindTest(tf.test.TestCase):
    def task(self, environment):
        return parse_tf_config(tf_config.find(environment))

    def test_tasks_of_srun_are_workers_in_blocks_with_a_port_each(self):
        task = self.task(SLURM)
        first = 10_000 + 4711 % 300 * 64
        ports = [first, first + 1]
        expected = [f"{node}:{port}" for node in ("gpu08", "gpu09") for port in ports]
        self.assertEqual(task.addresses, tuple(expected))
        self.assertEqual((task.rank, task.local_index), (2, 0))

    def test_all_tasks_find_the_same_cluster_and_each_its_own_place(self):
        places = [(0, 0), (0, 1), (1, 0), (1, 1)]
        tasks = [
            self.task(
                SLURM
                | {
                    "SLURM_PROCID": str(rank),
                    "SLURM_NODEID": str(node),
                    "SLURM_LOCALID": str(local),
                }
            )
            for rank, (node, local) in enumerate(places)
        ]
        self.assertEqual([task.rank for task in tasks], [0, 1, 2, 3])
        self.assertLen({task.addresses for task in tasks}, 1)
        self.assertEqual([task.local_index for task in tasks], [0, 1, 0, 1])

    def test_ports_are_of_the_job_and_below_those_that_clients_get(self):
        ports = set()
        for job in range(1000, 1300):
            addresses = self.task(SLURM | {"SLURM_JOB_ID": str(job)}).addresses
            own = {int(address.rpartition(":")[2]) for address in addresses}
            self.assertLess(max(own) + 64, 32_768)
            self.assertNoCommonElements(ports, own)
            ports |= own
        self.assertIn(":5000", self.task(SLURM | {"DC_TF_PORT": "5000"}).addresses[0])

    def test_what_slurm_set_for_the_job_is_taken_where_the_step_says_nothing(self):
        environment = dict(SLURM)
        environment["SLURM_JOB_NODELIST"] = environment.pop("SLURM_STEP_NODELIST")
        environment["SLURM_TASKS_PER_NODE"] = environment.pop("SLURM_STEP_TASKS_PER_NODE")
        self.assertEqual(self.task(environment), self.task(SLURM))

    def test_pods_of_an_indexed_job_have_names_by_their_service(self):
        task = self.task(POD)
        self.assertEqual(task.addresses, tuple(f"dc-tf-{i}.workers:2222" for i in range(4)))
        self.assertEqual(task.rank, 3)
        self.assertIn(":77", self.task(POD | {"DC_TF_PORT": "77"}).addresses[0])

    def test_what_is_there_already_is_kept_and_nobody_is_alone(self):
        text = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
        self.assertEqual(tf_config.find({**SLURM, **POD, "TF_CONFIG": text}), text)
        alone = {**SLURM, "SLURM_STEP_NODELIST": "a", "SLURM_STEP_TASKS_PER_NODE": "1"}
        alone |= {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}
        for environment in ({}, {"TF_CONFIG": " "}, alone, {**POD, "DC_TF_WORKERS": "1"}):
            if "JOB_COMPLETION_INDEX" in environment:
                environment["JOB_COMPLETION_INDEX"] = "0"
            self.assertEqual(self.task(environment).size, 1, environment)

    def test_what_makes_no_cluster_is_refused_with_what_was_found(self):
        for base, changes, message in [
            (SLURM, {"SLURM_STEP_TASKS_PER_NODE": "2"}, "2 nodes, but tasks on 1"),
            (SLURM, {"SLURM_NODEID": "0", "SLURM_LOCALID": "1"}, "--distribution=block"),
            (SLURM, {"SLURM_PROCID": "4"}, "SLURM_PROCID is '4'; expected a number in 0..3"),
            (SLURM, {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST and SLURM_JOB_NODELIST are"),
            (SLURM, {"SLURM_STEP_TASKS_PER_NODE": "65(x2)"}, "at most 64"),
            (SLURM, {"DC_TF_PORT": "70000"}, "DC_TF_PORT is '70000'"),
            (POD, {"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX is '4'"),
            (POD, {"DC_TF_WORKERS": "four"}, "DC_TF_WORKERS is 'four'"),
            (POD, {"DC_TF_SERVICE": ""}, "DC_TF_SERVICE is not set"),
        ]:
            with self.assertRaisesRegex(tf_config.UsageError, message):
                tf_config.find(base | changes)

    def test_scontrol_is_asked_for_forms_that_are_not_known(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        scontrol = pathlib.Path(folder, "scontrol")
        scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames odd[" ] && echo x1 x2\n')
        scontrol.chmod(0o755)
        with mock.patch.dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}"):
            task = self.task(SLURM | {"SLURM_STEP_NODELIST": "odd["})
            self.assertStartsWith(task.addresses[3], "x2:")
            with self.assertRaisesRegex(
                tf_config.UsageError, "scontrol does not know .*; use the form"
            ):
                tf_config.find(SLURM | {"SLURM_STEP_NODELIST": "other["})


class CommandTest(tf.test.TestCase):
    def run_script(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def test_it_prints_tf_config_or_becomes_the_command(self):
        printed = self.run_script(**POD).stdout
        self.assertEqual(json.loads(printed)["task"], {"type": "worker", "index": 3})
        done = self.run_script("--", "sh", "-c", 'echo "$TF_CONFIG"; exit 42', **POD)
        self.assertEqual((done.returncode, done.stdout), (42, printed))

    def test_wrong_usage_is_2_and_a_missing_command_127(self):
        for arguments in (["train"], ["--"], ["--help"]):
            done = self.run_script(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
        done = self.run_script("--", "true", **{**POD, "DC_TF_WORKERS": "2"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("JOB_COMPLETION_INDEX is '3'", done.stderr)
        self.assertEqual(self.run_script("--", "/no/such/program").returncode, 127)


if __name__ == "__main__":
    tf.test.main()
