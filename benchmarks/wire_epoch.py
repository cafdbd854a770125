"""An epoch on real images with bfloat16 on the wire beside float32, for some seeds.

    dc_tf convert --input=photos.zip --output=DATA
    python benchmarks/wire_epoch.py --data=DATA --output=FILE.json

Two workers train the quickstart's network for an epoch of RotNet and one of DeeperCluster, once in
float32 gradients and once with factors and gradients in bfloat16. The loss is the mean over the
last half of the epoch. Runs of one seed have the same images, crops and initial weights.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile

from absl import app, flags
from processes import last_lines, show

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
flags.DEFINE_string("data", None, "Converted images.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the experiment.")
flags.DEFINE_list("kinds", ["float32", "bfloat16"], "What to compare with the first of them.")
flags.DEFINE_integer("epochs", 1, "Of each stage.")
flags.DEFINE_integer("batch", 64, "Images of a step.")
flags.DEFINE_string("output", None, "JSON of all losses.")

KINDS = {
    "float32": {"exchange": "gradients"},
    "bfloat16": {"exchange": "factors", "exchange_dtype": "bfloat16"},
    # What a difference of rounding alone makes.
    "float32 factors": {"exchange": "factors"},
}


def main(_) -> None:
    found = {}
    for seed in FLAGS.seeds:
        for kind in FLAGS.kinds:
            found.setdefault(kind, []).append(losses(int(seed), kind))
            show({"seed": seed, "kind": kind, "losses": found[kind][-1]})
    result = {"losses": found, "stages": compared(found)}
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def losses(seed, kind) -> list[float]:
    """Mean loss in the last half of the last epoch of each stage."""
    stages = [
        {"name": "rotnet", "epochs": FLAGS.epochs, "clusters": 1, "sub_clusters": 0},
        {"name": "deepercluster", "epochs": FLAGS.epochs, "clusters": 2, "sub_clusters": 40},
    ]
    rate = {"learning_rate": 0.02, "weight_decay": 1e-4}
    stages = [{**one, "batch_size": FLAGS.batch, "optimizer": rate} for one in stages]
    stages[1]["clustering"] = {"whitening_dim": 64}
    settings = {"data": {"path": FLAGS.data}, "seed": seed, "log_every": 1, "stages": stages}
    settings["model"] = {**KINDS[kind], "compute_dtype": "float32"}
    with tempfile.TemporaryDirectory() as folder:
        run = os.path.join(folder, "run")
        command = [sys.executable, str(ROOT / "launch" / "local.py"), "--workers=2", "--threads=1"]
        command += ["--", "train", "--config_file=quickstart", f"--workdir={run}"]
        last_lines([[*command, f"--params_override={json.dumps(settings)}"]])
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as lines:
            steps = [json.loads(line) for line in lines]
    result = []
    for stage in range(len(stages)):
        own = [one for one in steps if one["event"] == "train" and one["stage"] == stage]
        last = [one["loss"] for one in own if one["epoch"] == FLAGS.epochs - 1]
        result.append(statistics.mean(last[len(last) // 2 :]))
    return result


def compared(found) -> list[dict]:
    """For each stage: losses by kind, and the standard deviation over the seeds of the first."""
    result = []
    for stage in range(2):
        of_kinds = {kind: [one[stage] for one in losses] for kind, losses in found.items()}
        first = of_kinds[FLAGS.kinds[0]]
        spread = statistics.stdev(first) if len(first) > 1 else None
        result.append({**of_kinds, "spread of seeds": spread})
    return result


if __name__ == "__main__":
    app.run(main)
