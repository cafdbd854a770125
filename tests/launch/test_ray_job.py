"""The launcher for Ray, with threads in place of Ray's actors: every worker its own TF_CONFIG."""

import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
import types
from shlex import quote
from unittest import mock

import tensorflow as tf

from dc_tf.distributed.task import parse_tf_config

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
sys.path.insert(0, str(LAUNCH))

import ray_job  # noqa: E402


class FakeRay(types.SimpleNamespace):
    """As much of Ray as the launcher uses; an actor is an object with two threads."""

    class RayError(Exception):
        pass

    def __init__(self):
        super().__init__()
        self.exceptions = types.SimpleNamespace(RayError=self.RayError)
        self.groups, self.killed = [], 0
        self.util = types.SimpleNamespace(
            placement_group=self._group,
            remove_placement_group=self.groups.remove,
            get_node_ip_address=lambda: "127.0.0.1",
            scheduling_strategies=types.SimpleNamespace(
                PlacementGroupSchedulingStrategy=lambda group, placement_group_bundle_index: None
            ),
        )
        self.lost = set()  # indexes of actors whose node goes away
        self.made = 0

    def _group(self, bundles, strategy):
        ready = concurrent.futures.Future()
        ready.set_result(None)
        group = types.SimpleNamespace(bundles=bundles, ready=lambda: ready)
        self.groups.append(group)
        return group

    def remote(self, **_):
        def decorate(kind):
            def make():
                index, self.made = self.made, self.made + 1
                return _Actor(kind(), index in self.lost, self.RayError)

            return types.SimpleNamespace(
                options=lambda **_: types.SimpleNamespace(remote=make), remote=make
            )

        return decorate

    def get(self, references, timeout=None):
        if isinstance(references, list):
            return [reference.result(timeout) for reference in references]
        try:
            return references.result(timeout)
        except concurrent.futures.TimeoutError as error:
            raise self.RayError("timeout") from error

    def wait(self, references, num_returns, timeout):
        del num_returns
        done, _ = concurrent.futures.wait(references, timeout)
        return (
            [reference for reference in references if reference in done],
            [reference for reference in references if reference not in done],
        )

    def kill(self, actor):
        self.killed += 1
        process = actor.object._process
        if process is not None and process.poll() is None:
            process.kill()


class _Actor:
    def __init__(self, made, is_lost, error):
        self.object = made
        threads = concurrent.futures.ThreadPoolExecutor(2)

        def lose(*_):
            raise error("the actor died")

        for name in ("address", "run", "stop"):
            call = lose if is_lost and name == "run" else getattr(made, name)
            method = types.SimpleNamespace(
                remote=lambda *args, call=call: threads.submit(call, *args)
            )
            setattr(self, name, method)


class RayJobTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.ray, self.stop = FakeRay(), threading.Event()

    def start(self, body, *flags, workers=3):
        """Exit code of a job whose workers run `body` in bash, with their index as $1."""
        script = self.folder / "worker.sh"
        script.write_text(
            'index=$(echo "$TF_CONFIG" | sed -n \'s/.*"index": \\([0-9]*\\).*/\\1/p\')\n'
            f'cd {quote(str(self.folder))}\necho "$TF_CONFIG" >>config-$index\n{body}\n'
        )
        program = f"--program=bash {quote(str(script))}"
        options, command = ray_job.parse(
            [f"--workers={workers}", "--gpus=0", program, *flags, "--", "train"]
        )
        modules = {"ray": self.ray}
        with mock.patch.dict(sys.modules, modules), contextlib.redirect_stderr(io.StringIO()):
            return ray_job.supervise(self.ray, options, command, self.stop)

    def configs(self, start=0):
        paths = sorted(self.folder.glob("config-*"))
        return [parse_tf_config(path.read_text().splitlines()[start]) for path in paths]

    def test_every_worker_gets_its_place_in_one_cluster(self):
        self.assertEqual(self.start('[ "$1" = train ]'), 0)
        tasks = self.configs()
        self.assertEqual([task.rank for task in tasks], [0, 1, 2])
        self.assertLen({task.addresses for task in tasks}, 1)
        self.assertLen(set(tasks[0].addresses), 3)
        self.assertEqual(self.ray.groups, [])
        self.assertEqual(self.ray.killed, 3)

    def test_one_worker_is_alone(self):
        self.assertEqual(self.start("exit 0", workers=1), 0)
        (task,) = self.configs()
        self.assertEqual(task.size, 1)

    def test_a_failure_starts_all_again(self):
        body = (
            "[ -e again ] && exit 0; [ $index = 1 ] && { sleep 0.3; touch again; exit 7; }; exit 43"
        )
        self.assertEqual(self.start(body, "--max_restarts=2"), 0)
        first, second = self.configs(0), self.configs(1)
        self.assertEqual([task.rank for task in second], [0, 1, 2])
        self.assertNotEqual(first[0].addresses, second[0].addresses)

    def test_the_code_of_a_failure_is_that_of_its_cause(self):
        body = "[ $index = 1 ] && exit 7; sleep 0.2; exit 43"
        self.assertEqual(self.start(body), 7)
        for codes, expected in (
            ([0, 0], 0),
            ([42, 42], 42),
            ([43, 2, 1], 2),
            ([42, 43, 1], 1),
            ([43, 43], 43),
            ([0, 42], 42),
        ):
            self.assertEqual(ray_job.job_code(codes), expected, codes)

    def test_a_wrong_configuration_is_not_started_again(self):
        self.assertEqual(self.start("exit 2", "--max_restarts=5"), 2)
        self.assertLen((self.folder / "config-0").read_text().splitlines(), 1)

    def test_a_lost_node_counts_as_a_failure(self):
        self.ray.lost = {1}
        self.assertEqual(self.start("sleep 0.1; exit 43", "--max_restarts=0"), ray_job.LOST)
        self.ray.made = 0
        self.ray.lost = {1}
        self.assertEqual(self.start("exit 0", "--max_restarts=1"), 0)

    def test_a_stopped_job_lets_its_workers_save(self):
        body = "trap 'touch saved-$index; exit 42' TERM; touch ready-$index\n"
        body += "while :; do sleep 0.05; done"

        def stop():
            until = time.monotonic() + 30
            while len(list(self.folder.glob("ready-*"))) < 3 and time.monotonic() < until:
                time.sleep(0.02)
            self.stop.set()

        thread = threading.Thread(target=stop)
        thread.start()
        code = self.start(body, "--max_restarts=3")
        thread.join()
        self.assertEqual(code, 42)
        self.assertLen(list(self.folder.glob("saved-*")), 3)
        self.assertLen((self.folder / "config-0").read_text().splitlines(), 1)

    def test_workers_that_do_not_end_after_a_failure_are_stopped(self):
        body = "[ $index = 0 ] && exit 1\ntrap 'touch saved-$index; exit 42' TERM\n"
        body += "while :; do sleep 0.05; done"
        with mock.patch.object(ray_job, "GRACE_S", 0.5):
            self.assertEqual(self.start(body), 1)
        self.assertEqual(
            sorted(path.name for path in self.folder.glob("saved-*")), ["saved-1", "saved-2"]
        )

    def test_addresses_of_ipv6_nodes_are_in_brackets(self):
        self.ray.util.get_node_ip_address = lambda: "::1"
        with mock.patch.dict(sys.modules, {"ray": self.ray}):
            address = ray_job.Worker().address()
        self.assertRegex(address, r"^\[::1\]:\d+$")
        texts = ray_job.tf_configs([address, "[::1]:1"])
        self.assertEqual(json.loads(texts[1])["task"]["index"], 1)
        self.assertEqual(parse_tf_config(texts[0]).addresses[0], address)

    def test_wrong_usage_is_2(self):
        for flags in (
            ["--workers=0", "--", "x"],
            ["--workers=2"],
            ["--workers=2", "--gpus=2", "--", "x"],
        ):
            with self.assertRaises(SystemExit) as caught, contextlib.redirect_stderr(io.StringIO()):
                ray_job.parse(flags)
            self.assertEqual(caught.exception.code, 2)
        self.assertTrue(os.access(LAUNCH / "ray_job.py", os.X_OK))


if __name__ == "__main__":
    tf.test.main()
