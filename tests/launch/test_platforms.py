"""Examples for platforms: their commands are real ones, their TF_CONFIG names one cluster."""

import importlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import types
from unittest import mock

import tensorflow as tf
import yaml

from dc_tf import experiment
from dc_tf.commands.main import COMMANDS
from dc_tf.distributed.task import parse_tf_config
from dc_tf.planning.stages import plan_stages
from dc_tf.training import preflight, run

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
sys.path.insert(0, str(LAUNCH))

import local  # noqa: E402
import node  # noqa: E402

# Fields of CustomJobSpec, WorkerPoolSpec and ContainerSpec, Vertex AI v1.
CUSTOM_JOB = {"workerPoolSpecs", "scheduling", "serviceAccount", "network", "reservedIpRanges"}
CUSTOM_JOB |= {"baseOutputDirectory", "labels", "enableWebAccess"}
POOL = {"machineSpec", "replicaCount", "nfsMounts", "diskSpec", "containerSpec"}
CONTAINER = {"imageUri", "command", "args", "env"}
# Texts with commands for platforms.
DOCUMENTED = ("launch/local.py", "launch/node.py", "launch/ray_job.py", "launch/slurm.sbatch")
DOCUMENTED += ("launch/docker/Dockerfile.cpu", "launch/docker/Dockerfile.gpu")
DOCUMENTED += ("dc_tf/commands/launch.py", "docs/cluster.md", "README.md")
# Of the Compose Specification.
SERVICE = {"image", "build", "command", "volumes", "restart", "stop_grace_period", "cap_drop"}
SERVICE |= {"security_opt", "environment", "entrypoint"}


def loaded(*path):
    return list(yaml.safe_load_all(LAUNCH.joinpath(*path).read_text()))


def commands():
    """{file: arguments of dc_tf} of all examples."""
    found = {}
    for name in ("indexed-job", "jobset", "tfjob"):
        for document in loaded("kubernetes", f"{name}.yaml"):
            for container in containers(document):
                found[f"{name}.yaml"] = container["args"]
    pools = loaded("vertex", "custom-job.yaml")[0]["workerPoolSpecs"]
    for number, pool in enumerate(pools):
        arguments = pool["containerSpec"]["args"]
        found[f"custom-job.yaml, pool {number}"] = arguments[arguments.index("--") + 1 :]
    for name, service in loaded("docker", "compose.yaml")[0]["services"].items():
        found[f"compose.yaml, {name}"] = service["command"]
    return found


def documented():
    """[(file, command line of dc_tf)] of the examples in texts, by words."""
    found = []
    for name in DOCUMENTED:
        text = re.sub(r"\\+\n[# ]*", "", (ROOT / name).read_text())
        lines = re.findall(r"(?:^|\s)((?:train|doctor)(?: --[^\s\"`]+)+)(?=[\s\"])", text)
        found += [(name, line.split()) for line in lines]
    return found


def without_placeholders(arguments):
    """{flag: value} of arguments, CONFIG as a preset that starts from nothing."""
    given = [argument.removeprefix("--").partition("=") for argument in arguments]
    return {flag: value if value != "CONFIG" else "quickstart" for flag, _, value in given}


def workers():
    """{file: number of workers that it starts}."""
    (job,) = (one for one in loaded("kubernetes", "indexed-job.yaml") if one["kind"] == "Job")
    (jobset,) = (one for one in loaded("kubernetes", "jobset.yaml") if one["kind"] == "JobSet")
    (tfjob,) = (one for one in loaded("kubernetes", "tfjob.yaml") if one["kind"] == "TFJob")
    pools = loaded("vertex", "custom-job.yaml")[0]["workerPoolSpecs"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    gpus = [pool["replicaCount"] * pool["machineSpec"]["acceleratorCount"] for pool in pools]
    return {
        "indexed-job.yaml": job["spec"]["completions"],
        "jobset.yaml": replicated["template"]["spec"]["completions"],
        "tfjob.yaml": tfjob["spec"]["tfReplicaSpecs"]["Worker"]["replicas"],
        "custom-job.yaml": sum(gpus),
        "compose.yaml": len(loaded("docker", "compose.yaml")[0]["services"]),
    }


def containers(value):
    """All containers anywhere in a manifest."""
    if isinstance(value, dict):
        yield from value.get("containers", ())
        value = value.values()
    if isinstance(value, list | type({}.values())):
        yield from itertools.chain.from_iterable(map(containers, value))


class CommandsTest(tf.test.TestCase):
    def test_there_is_one_of_each_platform(self):
        files = {name.partition(",")[0] for name in commands()}
        expected = {"indexed-job.yaml", "jobset.yaml", "tfjob.yaml", "custom-job.yaml"}
        self.assertEqual(files, {*expected, "compose.yaml"})

    def test_commands_flags_and_settings_are_real(self):
        for name, (command, *arguments) in commands().items():
            with self.subTest(name):
                flags = importlib.import_module(COMMANDS[command]).FLAGS
                given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
                self.assertContainsSubset(given, set(flags))
                self.assertTrue(all(argument.startswith("--") for argument in arguments))
                file = given["config_file"].replace("/opt/dc_tf", str(ROOT))
                settings = experiment.load([file], [given["params_override"]])
                self.assertTrue(settings.data.path.startswith(("/shared/", "/mnt/nfs/shared/")))

    def test_every_platform_has_a_command_in_its_text(self):
        self.assertEqual({name for name, _ in documented()}, set(DOCUMENTED))
        self.assertLen([name for name, _ in documented() if name == "docs/cluster.md"], 8)

    def test_documented_commands_have_a_data_set_and_a_start(self):
        for name, (command, *arguments) in documented():
            with self.subTest(name, command=arguments):
                given = without_placeholders(arguments)
                flags = importlib.import_module(COMMANDS[command]).FLAGS
                self.assertContainsSubset(given, set(flags))
                self.assertContainsSubset({"config_file", "workdir"}, given)
                settings = experiment.load([given["config_file"]], [given["params_override"]])
                self.assertNotEqual(settings.data.path, "")
                of_paper = given["config_file"] == "deepercluster_yfcc100m"
                self.assertEqual(bool(settings.init_from), of_paper)

    def test_training_takes_the_documented_commands(self):
        """As `dc_tf train --dry_run`, if data set and run to start from are there."""
        commands = {" ".join(words): words[1:] for _, words in documented() if words[0] == "train"}
        data = types.SimpleNamespace(rows=10**6)
        with (
            mock.patch.object(run.Dataset, "open", return_value=data),
            mock.patch.object(preflight, "check_initial"),
        ):
            for text, arguments in commands.items():
                given = without_placeholders(arguments)
                settings = experiment.load([given["config_file"]], [given["params_override"]])
                planned = run.dry_run(settings, given["workdir"], workers=4, gpus=True)
                self.assertEqual(planned.result["workers"], 4, text)

    def test_the_workers_of_each_can_share_its_experiment(self):
        counts = workers()
        for name, (_, *arguments) in commands().items():
            given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
            file = given["config_file"].replace("/opt/dc_tf", str(ROOT))
            settings = experiment.load([file], [given["params_override"]])
            plans = plan_stages(settings, 10**6, counts[name.partition(",")[0]])
            self.assertLen(plans, len(settings.stages), name)

    def test_shell_scripts_are_bash(self):
        scripts = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
        self.assertLen(scripts, 4)
        for script in scripts:
            done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), script)


class ComposeTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        (self.document,) = loaded("docker", "compose.yaml")
        self.services = self.document["services"]

    def test_three_workers_name_one_cluster_and_each_itself(self):
        self.assertLen(self.services, 3)
        tasks = [
            parse_tf_config(service["environment"]["TF_CONFIG"])
            for service in self.services.values()
        ]
        self.assertLen({task.addresses for task in tasks}, 1)
        for rank, (name, task) in enumerate(zip(self.services, tasks, strict=True)):
            self.assertEqual((task.size, task.rank), (3, rank))
            self.assertEqual(task.addresses[rank], f"{name}:2222")

    def test_they_are_alike_but_for_that_and_cut_off(self):
        alike = [{k: v for k, v in s.items() if k != "environment"} for s in self.services.values()]
        self.assertEqual(alike[1:], alike[:1] * 2)
        for service in self.services.values():
            self.assertContainsSubset(service, SERVICE)
            self.assertEqual(service["cap_drop"], ["ALL"])
        self.assertTrue(self.document["networks"]["default"]["internal"])
        build = self.services["worker0"]["build"]
        root = (LAUNCH / "docker" / build["context"]).resolve()
        self.assertTrue((root / build["dockerfile"]).is_file())


class VertexTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        (self.document,) = loaded("vertex", "custom-job.yaml")
        self.pools = self.document["workerPoolSpecs"]

    def test_it_uses_only_names_of_the_api(self):
        self.assertContainsSubset(self.document, CUSTOM_JOB)
        for pool in self.pools:
            self.assertContainsSubset(pool, POOL)
            self.assertContainsSubset(pool["containerSpec"], CONTAINER)

    def test_one_chief_and_machines_like_it(self):
        chief, others = self.pools
        self.assertEqual(chief["replicaCount"], 1)
        self.assertEqual(chief["machineSpec"], others["machineSpec"])
        self.assertEqual(chief["containerSpec"], others["containerSpec"])
        mounts = {f"/mnt/nfs/{mount['mountPoint']}" for mount in chief["nfsMounts"]}
        arguments = " ".join(chief["containerSpec"]["args"])
        self.assertTrue(any(mount in arguments for mount in mounts))

    def test_what_vertex_sets_becomes_a_worker_for_each_gpu(self):
        chief, others = self.pools
        gpus = chief["machineSpec"]["acceleratorCount"]
        cluster = {
            "chief": ["cmle-training-workerpool0-1a2b-0:2222"],
            "worker": [
                f"cmle-training-workerpool1-1a2b-{i}:2222" for i in range(others["replicaCount"])
            ],
        }
        tasks = []
        for kind, addresses in cluster.items():
            for index in range(len(addresses)):
                config = {"cluster": cluster, "task": {"type": kind, "index": index, "trial": ""}}
                config["environment"] = "cloud"
                tasks += map(parse_tf_config, node.worker_configs(json.dumps(config), gpus))
        self.assertEqual([task.rank for task in tasks], list(range(4 * gpus)))
        self.assertLen({task.addresses for task in tasks}, 1)
        self.assertEqual({task.local_size for task in tasks}, {gpus})

    def test_the_launcher_takes_its_flags(self):
        container = self.pools[0]["containerSpec"]
        program = container["command"][1].replace("/opt/dc_tf", str(ROOT))
        self.assertTrue(os.path.isfile(program))
        options, command = local.parse(container["args"], workers_required=False)
        self.assertEqual((options.max_restarts, options.grace_s), (3, 300))
        self.assertEqual(command[command.index("dc_tf") + 1], "train")


if __name__ == "__main__":
    tf.test.main()
