"""The manifests against Kubernetes' own schemas, and what they promise about restarts and ports.

kubernetes-validate carries the schemas of the built-in kinds. It has none of TFJob: its pods are
validated as pods, and what surrounds them against the names of the operator's type.
"""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import tensorflow as tf
import yaml

from dc_tf.distributed.task import parse_tf_config
from dc_tf.errors import HELD_UP, PREEMPTED

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "launch" / "kubernetes"
HAVE_SCHEMAS = importlib.util.find_spec("kubernetes_validate") is not None
# Fields of TFJobSpec, RunPolicy and ReplicaSpec, kubeflow.org/v1.
TFJOB = {"enableDynamicWorker", "runPolicy", "successPolicy", "tfReplicaSpecs"}
RUN_POLICY = {"activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "managedBy"}
RUN_POLICY |= {"schedulingPolicy", "suspend", "ttlSecondsAfterFinished"}
# Of JobSetSpec, Network, FailurePolicy and FailurePolicyRule, jobset.x-k8s.io/v1alpha2.
JOBSET = {"replicatedJobs", "network", "successPolicy", "failurePolicy", "startupPolicy", "suspend"}
JOBSET |= {"coordinator", "managedBy", "ttlSecondsAfterFinished"}
NETWORK = {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"}
FAILURE_POLICY = {"maxRestarts", "restartStrategy", "rules"}
FAILURE_RULE = {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"}
REPLICA = {"replicas", "restartPolicy", "template"}


def documents():
    """{(file, kind): manifest}."""
    return {
        (path.name, document["kind"]): document
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    }


def pods():
    """{file: pod template} of the manifests that start workers."""
    found = documents()
    return {
        "indexed-job.yaml": found["indexed-job.yaml", "Job"]["spec"]["template"],
        "jobset.yaml": child_job()["spec"]["template"],
        "tfjob.yaml": found["tfjob.yaml", "TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]["template"],
    }


def child_job():
    """The Job that the JobSet makes, as far as its manifest says."""
    (workers,) = documents()["jobset.yaml", "JobSet"]["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", **workers["template"]}


def first_action(rules, code, disrupted=False):
    """What a podFailurePolicy does with a failed pod: the action of the first rule that fits."""
    for rule in rules:
        if code in rule.get("onExitCodes", {}).get("values", ()):
            return rule["action"]
        if disrupted and "onPodConditions" in rule:
            return rule["action"]
    return "Count"


class SchemaTest(tf.test.TestCase):
    @unittest.skipUnless(HAVE_SCHEMAS, "pip install -c constraints.txt kubernetes-validate")
    def test_all_built_in_kinds_fit_their_schemas(self):
        import kubernetes_validate

        known = [d for (_, kind), d in documents().items() if kind not in ("TFJob", "JobSet")]
        kinds = ["Job", "NetworkPolicy", "PersistentVolumeClaim", "Service"]
        self.assertEqual(sorted(document["kind"] for document in known), kinds)
        known.append({"metadata": {"name": "dc-tf-workers-0"}, **child_job()})
        for version in ("1.31", kubernetes_validate.latest_version()):
            for document in known:
                kubernetes_validate.validate(document, version, strict=True)

    def test_the_jobset_uses_only_names_of_its_type(self):
        document = documents()["jobset.yaml", "JobSet"]
        self.assertEqual(document["apiVersion"], "jobset.x-k8s.io/v1alpha2")
        spec = document["spec"]
        self.assertContainsSubset(spec, JOBSET)
        self.assertContainsSubset(spec["network"], NETWORK)
        self.assertContainsSubset(spec["failurePolicy"], FAILURE_POLICY)
        for rule in spec["failurePolicy"]["rules"]:
            self.assertContainsSubset(rule, FAILURE_RULE)
            self.assertRegex(rule["name"], "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
        (workers,) = spec["replicatedJobs"]
        self.assertEqual(set(workers), {"name", "replicas", "template"})

    @unittest.skipUnless(HAVE_SCHEMAS, "pip install -c constraints.txt kubernetes-validate")
    def test_the_pods_of_the_tfjob_fit_theirs_and_a_wrong_name_does_not(self):
        import kubernetes_validate

        pod = {"apiVersion": "v1", "kind": "Pod", **pods()["tfjob.yaml"]}
        pod["metadata"] = {"name": "worker", **pod["metadata"]}
        version = kubernetes_validate.latest_version()
        kubernetes_validate.validate(pod, version, strict=True)
        pod["spec"]["terminationGracePeriod"] = 1
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, version, strict=True)

    def test_the_tfjob_uses_only_names_that_the_operator_knows(self):
        spec = documents()["tfjob.yaml", "TFJob"]["spec"]
        self.assertContainsSubset(spec, TFJOB)
        self.assertContainsSubset(spec["runPolicy"], RUN_POLICY)
        self.assertEqual(set(spec["tfReplicaSpecs"]), {"Worker"})
        self.assertContainsSubset(spec["tfReplicaSpecs"]["Worker"], REPLICA)
        container = pods()["tfjob.yaml"]["spec"]["containers"][0]
        self.assertEqual(
            (container["name"], container["ports"][0]["name"]), ("tensorflow", "tfjob-port")
        )


class PromisesTest(tf.test.TestCase):
    def test_the_pods_of_the_indexed_job_find_each_other(self):
        found = documents()
        job, service = found["indexed-job.yaml", "Job"], found["indexed-job.yaml", "Service"]
        template = job["spec"]["template"]
        variables = {v["name"]: v["value"] for v in template["spec"]["containers"][0]["env"]}
        workers = job["spec"]["completions"]
        self.assertEqual(job["spec"]["parallelism"], workers)
        done = subprocess.run(
            [sys.executable, ROOT / "launch" / "tf_config.py"],
            env={**variables, "JOB_COMPLETION_INDEX": str(workers - 1)},
            capture_output=True,
            text=True,
            check=True,
        )
        task = parse_tf_config(done.stdout)
        self.assertEqual((task.size, task.rank), (workers, workers - 1))
        self.assertEqual(template["spec"]["subdomain"], service["metadata"]["name"])
        port = service["spec"]["ports"][0]["port"]
        names = [f"{job['metadata']['name']}-{i}.{service['metadata']['name']}" for i in range(4)]
        self.assertEqual(task.addresses, tuple(f"{name}:{port}" for name in names))
        self.assertEqual(service["spec"]["clusterIP"], "None")
        self.assertTrue(service["spec"]["publishNotReadyAddresses"])

    def test_the_pods_of_the_jobset_find_each_other(self):
        document, job = documents()["jobset.yaml", "JobSet"], child_job()
        (workers,) = document["spec"]["replicatedJobs"]
        container = job["spec"]["template"]["spec"]["containers"][0]
        variables = {v["name"]: v["value"] for v in container["env"]}
        count = job["spec"]["completions"]
        self.assertEqual((job["spec"]["parallelism"], workers["replicas"]), (count, 1))
        network = document["spec"]["network"]
        for rank in range(count):
            done = subprocess.run(
                [sys.executable, ROOT / "launch" / "tf_config.py"],
                env={**variables, "JOB_COMPLETION_INDEX": str(rank)},
                capture_output=True,
                text=True,
                check=True,
            )
            task = parse_tf_config(done.stdout)
            self.assertEqual((task.size, task.rank), (count, rank))
            # <jobSet.name>-<spec.replicatedJob.name>-<job-index>-<pod-index>.<subdomain>
            name = f"{document['metadata']['name']}-{workers['name']}-0-{rank}"
            port = container["ports"][0]["containerPort"]
            self.assertEqual(task.addresses[rank], f"{name}.{network['subdomain']}:{port}")
        self.assertTrue(network["enableDNSHostnames"] and network["publishNotReadyAddresses"])
        self.assertIn("kueue.x-k8s.io/queue-name", document["metadata"]["labels"])

    def test_the_jobset_starts_again_after_a_failure_and_ends_at_a_wrong_configuration(self):
        spec = child_job()["spec"]
        rules = spec["podFailurePolicy"]["rules"]
        codes = {r["action"]: r["onExitCodes"]["values"] for r in rules if "onExitCodes" in r}
        self.assertEqual(codes, {"FailJob": [2], "Ignore": [PREEMPTED, HELD_UP]})
        self.assertEqual(spec["backoffLimit"], 0)
        policy = documents()["jobset.yaml", "JobSet"]["spec"]["failurePolicy"]
        self.assertEqual(policy["restartStrategy"], "BlockingRecreate")
        (rule,) = policy["rules"]
        self.assertEqual(
            (rule["action"], rule["onJobFailureReasons"]), ("FailJobSet", ["PodFailurePolicy"])
        )
        self.assertEqual(spec["template"]["spec"]["restartPolicy"], "Never")

    def test_only_a_wrong_configuration_ends_the_indexed_job_at_once(self):
        spec = documents()["indexed-job.yaml", "Job"]["spec"]
        rules = spec["podFailurePolicy"]["rules"]
        codes = {r["action"]: r["onExitCodes"]["values"] for r in rules if "onExitCodes" in r}
        self.assertEqual(codes, {"FailJob": [2], "Ignore": [PREEMPTED, HELD_UP]})
        conditions = [r["onPodConditions"] for r in rules if "onPodConditions" in r]
        self.assertEqual(conditions, [[{"type": "DisruptionTarget", "status": "True"}]])
        container = spec["template"]["spec"]["containers"][0]["name"]
        named = {r["onExitCodes"]["containerName"] for r in rules if "onExitCodes" in r}
        self.assertEqual(named, {container})
        self.assertEqual(spec["template"]["spec"]["restartPolicy"], "Never")
        self.assertEqual(spec["backoffLimit"], 3 * spec["completions"])

    def test_a_lost_node_costs_no_restart(self):
        """Its pod is taken away, and its peers end with 43: neither may count."""
        for spec in (documents()["indexed-job.yaml", "Job"]["spec"], child_job()["spec"]):
            rules = spec["podFailurePolicy"]["rules"]
            self.assertEqual(first_action(rules, code=HELD_UP), "Ignore")
            self.assertEqual(first_action(rules, code=137, disrupted=True), "Ignore")
            self.assertEqual(first_action(rules, code=1), "Count")
            self.assertEqual(first_action(rules, code=137), "Count")

    def test_the_tfjob_starts_again_by_exit_code(self):
        worker = documents()["tfjob.yaml", "TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]
        self.assertEqual(worker["restartPolicy"], "ExitCode")
        command = pods()["tfjob.yaml"]["spec"]["containers"][0]["command"]
        self.assertEqual(command[1:3], ["/opt/dc_tf/launch/retryable.py", "--kubeflow"])

    def test_workers_run_without_privileges_and_with_time_to_save(self):
        for file, pod in pods().items():
            spec = pod["spec"]
            container = spec["containers"][0]
            self.assertTrue(spec["securityContext"]["runAsNonRoot"], file)
            self.assertFalse(container["securityContext"]["allowPrivilegeEscalation"], file)
            self.assertEqual(container["securityContext"]["capabilities"]["drop"], ["ALL"], file)
            self.assertFalse(spec["automountServiceAccountToken"], file)
            self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], 120, file)
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            self.assertContainsSubset({"/shared", "/scratch", "/dev/shm"}, mounted, file)

    def test_only_workers_reach_workers(self):
        policy = documents()["network-policy.yaml", "NetworkPolicy"]["spec"]
        labels = policy["podSelector"]["matchLabels"]
        self.assertEqual(policy["ingress"], [{"from": [{"podSelector": {"matchLabels": labels}}]}])
        self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
        for pod in pods().values():
            self.assertContainsSubset(labels, pod["metadata"]["labels"])

    def test_the_shared_volume_is_written_by_many(self):
        claim = documents()["storage.yaml", "PersistentVolumeClaim"]
        self.assertEqual(claim["spec"]["accessModes"], ["ReadWriteMany"])
        for pod in pods().values():
            claims = [v.get("persistentVolumeClaim", {}) for v in pod["spec"]["volumes"]]
            self.assertIn({"claimName": claim["metadata"]["name"]}, claims)


class RetryableTest(tf.test.TestCase):
    def command(self, *arguments, scheduler="--kubeflow"):
        return [sys.executable, ROOT / "launch" / "retryable.py", scheduler, *arguments]

    def test_only_done_and_wrong_usage_are_final(self):
        for code, expected in [(0, 0), (2, 2), (1, 138), (42, 138), (137, 138)]:
            done = subprocess.run(self.command("sh", "-c", f"exit {code}"), timeout=30)
            self.assertEqual(done.returncode, expected)
        killed = subprocess.run(self.command("sh", "-c", "kill -KILL $$"), timeout=30)
        self.assertEqual(killed.returncode, 138)
        self.assertEqual(subprocess.run(self.command("/no/such")).returncode, 2)
        self.assertEqual(subprocess.run(self.command(), stderr=subprocess.DEVNULL).returncode, 2)

    def test_docker_starts_again_all_but_done_and_stopped(self):
        for code in (0, 1, 2, 42, 43, 137):
            command = self.command("sh", "-c", f"exit {code}", scheduler="--docker")
            done = subprocess.run(command, timeout=30, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0 if code == PREEMPTED else code)
            self.assertEqual("stopped on request" in done.stderr, code == PREEMPTED)
        killed = self.command("sh", "-c", "kill -KILL $$", scheduler="--docker")
        self.assertEqual(subprocess.run(killed, timeout=30).returncode, 137)

    def test_the_scheduler_is_named(self):
        command = self.command("true", scheduler="dc_tf")
        self.assertEqual(subprocess.run(command, stderr=subprocess.DEVNULL).returncode, 2)

    def test_a_signal_is_passed_to_the_command(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        body = 'trap "touch saved; exit 42" TERM; touch ready; while :; do sleep 0.05; done'
        process = subprocess.Popen(self.command("sh", "-c", body), cwd=folder)
        until = time.monotonic() + 20
        while not (folder / "ready").exists():
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 138)
        self.assertEqual(sorted(os.listdir(folder)), ["ready", "saved"])


class DockerTest(tf.test.TestCase):
    """Read, not built: no container engine is assumed."""

    def instructions(self, name):
        """[(instruction, arguments)] of a Dockerfile."""
        text = (ROOT / "launch" / "docker" / name).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return [tuple(line.split(None, 1)) for line in lines]

    def test_the_images_are_pinned_run_without_root_and_start_a_worker(self):
        for kind in ("cpu", "gpu"):
            found = self.instructions(f"Dockerfile.{kind}")
            self.assertEqual([value for name, value in found if name == "FROM"], ["${BASE}"])
            self.assertRegex(dict(found)["ARG"], r"^BASE=python:3\.1[0-2]-slim-\w+$")
            users = [number for number, (name, _) in enumerate(found) if name == "USER"]
            self.assertEqual(found[users[-1]][1], "10001:10001")
            self.assertNotIn("RUN", [name for name, _ in found[users[-1] :]])
            runs = " ".join(value for name, value in found if name == "RUN")
            installs = runs.split("pip install")[1:]
            self.assertLen(installs, 3)
            for install in installs:
                self.assertIn("-c constraints.txt", install)
            self.assertIn(f'".[{kind}]"', runs)
            entry = json.loads(dict(found)["ENTRYPOINT"])
            self.assertEqual(entry[1:], ["/opt/dc_tf/launch/tf_config.py", "--", "dc_tf"])
            self.assertIsInstance(json.loads(dict(found)["CMD"]), list)

    def test_the_driver_that_gke_mounts_is_found(self):
        settings = " ".join(v for name, v in self.instructions("Dockerfile.gpu") if name == "ENV")
        shell = f'for one in {settings}; do export "$one"; done; echo "$PATH $LD_LIBRARY_PATH"'
        for before, after in (
            ("/old", "/usr/local/nvidia/lib64:/old"),
            ("", "/usr/local/nvidia/lib64"),
        ):
            environment = {"PATH": "/bin", "LD_LIBRARY_PATH": before}
            done = subprocess.run(["sh", "-c", shell], env=environment, capture_output=True)
            self.assertEqual(done.stdout.decode().split(), ["/usr/local/nvidia/bin:/bin", after])

    def test_what_they_copy_is_there_and_reaches_the_build(self):
        sent = (ROOT / ".dockerignore").read_text().splitlines()
        for kind in ("cpu", "gpu"):
            for name, value in self.instructions(f"Dockerfile.{kind}"):
                for source in value.split()[:-1] if name == "COPY" else []:
                    self.assertTrue((ROOT / source).exists(), source)
                    self.assertIn("!" + source.split("/")[0], sent)

    def test_the_images_user_is_the_one_of_the_pods(self):
        for pod in pods().values():
            self.assertEqual(pod["spec"]["securityContext"]["runAsUser"], 10001)


if __name__ == "__main__":
    tf.test.main()
