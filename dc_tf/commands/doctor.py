"""Checks versions, devices, TF_CONFIG, the other workers, data and disks; says what to fix.

    dc_tf doctor
    dc_tf doctor --config_file=CONFIG --params_override=data.path=DATA --workdir=RUN

Start it on every worker as `train` is started, with the same TF_CONFIG, in any order. One line a
check: `ok`, `warn` or `FAIL`, what, what was found, and what to do. The chief prints checks that
all workers share, the others print their own failures. A silent worker is named. Nothing is
trained, and nothing is left in the run folder.

Exit codes: 0 nothing failed, 1 something failed, 2 wrong usage.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.terminal.results import Result
from dc_tf.errors import DataError

FLAGS = CommandFlags()
CONFIG_FILE = FLAGS.multi_path(
    "config_file", [], "As of `train`; without it, the configuration of the run in --workdir."
)
PARAMS_OVERRIDE = FLAGS.multi_string("params_override", [], "As of `train`.")
WORKDIR = FLAGS.path("workdir", None, "Run folder, as of `train`.")
TIMEOUT_S = FLAGS.float(
    "timeout_s",
    60.0,
    "Seconds to wait for workers that have not started, and for TensorFlow to join them.",
    lower_bound=1.0,
)
SAMPLE = FLAGS.integer("sample", 200, "Images that each worker reads and decodes.", lower_bound=1)
VERIFY = FLAGS.bool("verify", False, "Read and check all shards, each worker its share.")


def run() -> dict:
    """Runs the command; returns the findings of this worker."""
    from dc_tf.doctor.beginning import begin

    begun = begin()
    # What follows needs TensorFlow, which takes seconds to import.
    from dc_tf.doctor.checks import Options, run_checks

    report = run_checks(
        Options(
            config_file=tuple(CONFIG_FILE.value),
            params_override=tuple(PARAMS_OVERRIDE.value),
            workdir=WORKDIR.value,
            timeout_s=TIMEOUT_S.value,
            sample=SAMPLE.value,
            verify=VERIFY.value,
        ),
        begun,
    )
    result = Result(report.as_dict(), shown=True)
    if report.failed:
        names = ", ".join(dict.fromkeys(check.what for check in report.failed))
        raise DataError(f"{len(report.failed)} checks failed: {names}.", result=result)
    return result
