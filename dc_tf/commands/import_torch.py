"""Turns PyTorch weights into a SavedModel like that of `dc_tf export`.

Reads checkpoints of DeeperCluster, DeepCluster and RotNet, VGG-16 with batch norm, and weights with
the names of torchvision's resnet18 and resnet50, of any width, on Sobel or on RGB; the weights tell
which. Heads are left out. Only tensors are read; no code in the file is run.
Needs PyTorch: pip install torch
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.errors import ConfigError

FLAGS = CommandFlags()
CHECKPOINT = FLAGS.path("checkpoint", None, "File of PyTorch, such as ours.pth.", required=True)
OUTPUT = FLAGS.path("output", None, "Folder for the SavedModel.", required=True)
SOBEL = FLAGS.string(
    "sobel",
    "layer",
    "'layer' keeps the fixed Sobel stage; 'folded' makes it and conv1 one convolution on RGB (5x5 "
    "of 3x3, 9x9 of 7x7) that can be trained.",
)
RESOLUTION = FLAGS.integer(
    "resolution",
    224,
    "Side, in pixels, of the images that the network was trained on.",
    lower_bound=8,
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace an existing SavedModel.")


def run() -> dict:
    """Writes the SavedModel; returns what was written."""
    # After the flags are known to be right, since TensorFlow takes seconds to import.
    from dc_tf.exporting.saved_model import SOBEL_FORMS, check_output, export_saved_model
    from dc_tf.exporting.torch_checkpoint import check_checkpoint, digest, read_checkpoint
    from dc_tf.exporting.torch_weights import from_torch
    from dc_tf.exporting.weights import assign_weights
    from dc_tf.nn.trunks import make_trunk
    from dc_tf.progress import Progress

    if SOBEL.value not in SOBEL_FORMS:
        raise ConfigError(f"--sobel is {SOBEL.value!r}; use one of {', '.join(SOBEL_FORMS)}.")
    check_output(OUTPUT.value, OVERWRITE.value)
    check_checkpoint(CHECKPOINT.value)
    with Progress(3, "import_torch", "steps") as progress:
        network = from_torch(read_checkpoint(CHECKPOINT.value), RESOLUTION.value)
        source = {"checkpoint": CHECKPOINT.value, "sha256": digest(CHECKPOINT.value)}
        progress.update(1)
        trunk = make_trunk(network.kind, **network.settings).built_at_resolution()
        assign_weights(network.weights, trunk)
        progress.update(1)
        metadata = export_saved_model(
            trunk, OUTPUT.value, SOBEL.value, source=source, overwrite=OVERWRITE.value
        )
        progress.update(1)
    return {
        "import": OUTPUT.value,
        **source,
        "sobel": SOBEL.value,
        "trunk": metadata.trunk,
        "settings": metadata.settings,
        "ignored": network.ignored,
        "outputs": metadata.outputs,
    }
