"""Writes a run's network so that it loads anywhere and can be fine-tuned.

saved_model: a folder with a model card, for plain TensorFlow (`tf.saved_model.load`) and for
`hub.KerasLayer(trainable=True)` and Keras 3's `TFSMLayer`. Returns layers by name.
keras, keras3: a `.keras` file of plain layers, named as in `keras.applications.VGG16` or
`ResNet50`, for Keras 2 (tf_keras) or Keras 3 on TensorFlow, PyTorch or JAX.
keras_weights: a `.weights.h5` file for `dc_tf.nn.trunks.make_trunk(...).load_weights`.
torch: a `.pth` file of weights with the names of torchvision's resnet18 or resnet50, or for VGG-16
of the paper's program; `dc_tf import_torch` reads it. Needs PyTorch.
torchvision: a `.pth` file that torchvision's vgg16_bn, resnet18 or resnet50 loads with strict=True;
its classifier is zero. Needs PyTorch. safetensors: weights for the same models of timm, made with
num_classes=0. Both take networks of their shape: width 1, on RGB without Sobel.
onnx: a `.onnx` file of all layers; needs tf2onnx. tflite: a `.tflite` file of all layers.

Every model takes images as uint8, or as floats in [0, 1], and refuses NaN and values out of range
when it is called. --input_range=255 is for floats in 0 to 255, as Keras's image loaders give them.
A .keras, .onnx or .tflite file gets every input as float32: with auto, it reads an image with a
value of 2 or more as 0 to 255, another one as [0, 1]. --input_range=1 and 255 leave it no choice;
with 255, the input of ONNX and TFLite has the type uint8. ONNX, TFLite, XLA and Keras 3 return NaN
for what is refused.
"""

from dc_tf import paths
from dc_tf.commands.flags.define import CommandFlags
from dc_tf.run_dir import check_run

FLAGS = CommandFlags()
WORKDIR = FLAGS.path("workdir", None, "Run folder of `dc_tf train`.", required=True)
STAGE = FLAGS.string("stage", "", "Use the network as it was at the end of this stage.")
OUTPUT = FLAGS.path("output", None, "Folder of the SavedModel, or file.", required=True)
FORMAT = FLAGS.enum(
    "format",
    "saved_model",
    [
        "saved_model",
        "keras",
        "keras3",
        "keras_weights",
        "onnx",
        "tflite",
        "torch",
        "torchvision",
        "safetensors",
    ],
    "Format of the output; see above.",
)
SOBEL = FLAGS.string(
    "sobel",
    "layer",
    "'layer' keeps the fixed Sobel stage; 'folded' makes it and conv1 one convolution on RGB (5x5 "
    "of 3x3, 9x9 of 7x7) that can be trained.",
)
INPUT_RANGE = FLAGS.enum(
    "input_range",
    "auto",
    ["auto", "1", "255"],
    "Of image values: [0, 1], 0 to 255, or auto; see above.",
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace an existing output.")


def run() -> dict:
    """Writes the network; returns what was written."""
    # Before TensorFlow is imported.
    check_output = paths.check_folder if FORMAT.value == "saved_model" else paths.check_file
    check_output(OUTPUT.value, "--output")
    check_run(WORKDIR.value, "--workdir")
    from dc_tf.training.export_run import export_run

    return export_run(
        WORKDIR.value,
        OUTPUT.value,
        format=FORMAT.value,
        sobel=SOBEL.value,
        stage=STAGE.value,
        input_range=INPUT_RANGE.value,
        overwrite=OVERWRITE.value,
    )
