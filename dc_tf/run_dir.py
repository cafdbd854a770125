"""The folder of a run: every path in it.

run = RunDir("/runs/mine")
run.checkpoints, run.clustering(stage=1, round_index=0), run.metrics ...
"""

import hashlib
import os
import shutil

from dc_tf import paths
from dc_tf.atomic import require_mounted
from dc_tf.errors import ConfigError


def check_run(path: str, flag="--run") -> None:
    """Refuses a folder that is not of a run; imports nothing slow.

    Args:
        path: of the folder.
        flag: name of the setting that names it, for the message.

    Raises:
        ConfigError: it has no settings of an experiment.
    """
    if not os.path.isfile(RunDir(path).config):
        raise ConfigError(
            f"{flag}={path} is not the folder of a run of `dc_tf train`: it has no experiment.yaml."
        )


class RunDir:
    """Paths inside a run folder; all workers of a run see the same one.

    Attributes:
        path: absolute path of the folder.
    """

    def __init__(self, path: str):
        if not path:
            raise ConfigError("--workdir is empty; name a folder that all workers can write.")
        require_mounted(path, "--workdir")
        self.path = os.path.abspath(paths.expand(path))

    @property
    def config(self) -> str:
        """The experiment as it runs, all settings, YAML."""
        return os.path.join(self.path, "experiment.yaml")

    @property
    def data(self) -> str:
        """Path and fingerprint of the data set when the run began."""
        return os.path.join(self.path, "data.json")

    @property
    def versions(self) -> str:
        """Versions of dc_tf and of the packages that trained, when the run was last started."""
        return os.path.join(self.path, "versions.json")

    @property
    def metrics(self) -> str:
        """One JSON object a line: step, losses, accuracies, speed; also one per clustering."""
        return os.path.join(self.path, "metrics.jsonl")

    @property
    def summaries(self) -> str:
        """TensorBoard event files, and what its projector shows."""
        return os.path.join(self.path, "tensorboard")

    @property
    def result(self) -> str:
        """The JSON result of the finished run."""
        return os.path.join(self.path, "result.json")

    @property
    def failed_step(self) -> str:
        """Position in training and metrics when a loss was not finite."""
        return os.path.join(self.path, "failed_step.json")

    @property
    def checkpoints(self) -> str:
        """A folder for each checkpoint, the newest `keep_checkpoints` and those of stages' ends."""
        return os.path.join(self.path, "checkpoints")

    @property
    def clusterings(self) -> str:
        """A folder for each clustering."""
        return os.path.join(self.path, "clusterings")

    @property
    def heartbeats(self) -> str:
        """The heartbeat file of each worker, for the watchdog."""
        return os.path.join(self.path, "heartbeats")

    @property
    def stacks(self) -> str:
        """Stacks of the threads of workers that the watchdog ended."""
        return os.path.join(self.path, "stacks")

    @property
    def lock(self) -> str:
        """Lock file, held by the chief while the run is in progress."""
        return os.path.join(self.path, "run.lock")

    def log(self, rank: int) -> str:
        """The log of a worker."""
        return os.path.join(self.path, "logs", f"worker-{rank:05d}.log")

    def clustering(self, stage: int, round_index: int) -> str:
        """Assignments of one round, and of the newest rounds the centroids."""
        return os.path.join(self.clusterings, f"stage-{stage:02d}-round-{round_index:04d}")

    @property
    def banks(self) -> str:
        """Features that training has kept for the next clustering; a folder for each round."""
        return os.path.join(self.path, "bank")

    def bank(self, stage: int, round_index: int) -> str:
        """Features that a round began with, and those that its steps have kept."""
        return os.path.join(self.banks, f"stage-{stage:02d}-round-{round_index:04d}")

    @property
    def table(self) -> str:
        """Cluster, file and metadata of every image, for the last clustering."""
        return os.path.join(self.path, "clusters.parquet")

    def embeddings(self, name: str) -> str:
        """Features of one layer of the newest checkpoint over the data set."""
        return os.path.join(self.path, "embeddings", name)

    def features(self, rank: int) -> str:
        """Scratch folder of a worker for its features and the clustering in progress.

        On the worker's own disk if DC_TF_SCRATCH names one.
        """
        root = os.environ.get("DC_TF_SCRATCH")
        if not root:
            return os.path.join(self.path, "features", f"worker-{rank:05d}")
        run = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]  # runs may share a disk
        return os.path.join(paths.expand(root), f"dc_tf-{run}", f"worker-{rank:05d}")

    def remove_features_of_others(self, size: int) -> None:
        """Removes the features on this disk of workers that a world of `size` does not have."""
        folder = os.path.dirname(self.features(0))
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            rank = name.removeprefix("worker-")
            if rank.isdigit() and int(rank) >= size:
                # workers that share the disk do this concurrently
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

    def create(self) -> None:
        """Creates the folder."""
        os.makedirs(self.path, exist_ok=True)
