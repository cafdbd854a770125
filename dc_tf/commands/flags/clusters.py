"""The flags that say which clustering a command works on, defined in one way.

FLAGS = CommandFlags()
SOURCE = ClusterFlags(FLAGS)          # --run, --stage, --round, --clusters, --data
open_clustering(**SOURCE.values())
"""

from dc_tf.commands.flags.runs import check_given_run


class ClusterFlags:
    """The flags --run, --stage, --round, --clusters and --data of one command."""

    def __init__(self, flags, data="Data set folder that was clustered; with --run only if moved."):
        """Defines them among `flags`, CommandFlags.

        Args:
            data: help of --data.
        """
        self._run = flags.path("run", None, "Run folder, for its last clustering.")
        self._stage = flags.string("stage", "", "Of a run: its last clustering in this stage.")
        self._round = flags.integer(
            "round", None, "Of a run: index of the clustering in its stage.", lower_bound=0
        )
        self._clusters = flags.path("clusters", None, "Output folder of dc_tf kmeans.")
        self._data = flags.path("data", None, data)

    def values(self) -> dict:
        """{argument: value} of `clusters.open.open_clustering`.

        Raises:
            ConfigError: a wrong TF_CONFIG, or --run is not the folder of a run.
        """
        check_given_run(self._run.value)
        return {
            "run": self._run.value,
            "stage": self._stage.value,
            "round_index": self._round.value,
            "clusters": self._clusters.value,
            "data": self._data.value,
        }
