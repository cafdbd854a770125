"""Shows the batch of a step of a run: images as the network got them, rows, clusters.

    dc_tf replay /runs/mine --output=/tmp/step             # the step whose loss was not finite
    dc_tf replay /runs/mine --step=1200 --output=/tmp/step

Writes OUTPUT/batch.jsonl, a line for each image, and OUTPUT/batch.png, with all views of an image
side by side. The loss is looked at every
`log_every` steps, so the first bad step may lie up to so many steps earlier.
"""

import json
import os

from dc_tf import paths
from dc_tf.commands.flags.define import CommandFlags
from dc_tf.errors import ConfigError

FLAGS = CommandFlags()
WORKDIR = FLAGS.path("workdir", None, "Run folder.")
STEP = FLAGS.integer("step", None, "Number of the step; by default the failed one.")
OUTPUT = FLAGS.path("output", None, "Folder to write to.")
ARGUMENT = WORKDIR  # may be given without its name

_SHEET = 64


def run() -> dict:
    """Runs the command; returns where the step is and what was written."""
    from dc_tf.atomic import require_mounted, write_text
    from dc_tf.run_dir import RunDir
    from dc_tf.training.replay import find_step, replay

    if not WORKDIR.value or not OUTPUT.value:
        raise ConfigError("the run or --output is missing; use dc_tf replay RUN --output=FOLDER.")
    require_mounted(OUTPUT.value, "--output")
    paths.check_folder(OUTPUT.value, "--output")
    folder = RunDir(WORKDIR.value)
    step = find_step(folder) if STEP.value is None else STEP.value
    batch = replay(folder, step)
    rows = batch.rows()
    os.makedirs(OUTPUT.value, exist_ok=True)
    lines, sheet = (os.path.join(OUTPUT.value, name) for name in ("batch.jsonl", "batch.png"))
    write_text(lines, "".join(json.dumps(row) + "\n" for row in rows))
    _write_sheet(batch, rows, sheet)
    return {
        "step": step,
        "stage": batch.stage,
        "epoch": batch.epoch,
        "step_of_epoch": batch.step,
        "images": len(rows),
        "distinct_rows": len({row["row"] for row in rows}),
        "batch": lines,
        "sheet": sheet,
    }


def _tile(image, source):
    import tensorflow as tf

    return {"encoded": tf.io.encode_png(image).numpy(), "label": None, "source": source}


def _pixels(image):
    import tensorflow as tf

    return tf.cast(255 * image + 0.5, tf.uint8)


def _write_sheet(batch, rows, path):
    """Writes images evenly spaced over the batch, so that all super-classes are shown.

    The views of an image follow each other.
    """
    import numpy as np

    from dc_tf.data.inspection import contact_sheet

    places = np.linspace(0, len(rows) - 1, max(1, min(_SHEET // len(batch.views), len(rows))))
    tiles = [
        (rows[place]["row"], _tile(_pixels(view[place]), rows[place]["source"]))
        for place in places.astype(int)
        for view in batch.views
    ]
    contact_sheet(tiles, None, path)
