"""Registers VGG-16 as a backbone of tf-models-official, and Faster R-CNN on it as an experiment.

    params = exp_factory.get_exp_config("dc_tf_fasterrcnn_vgg16_voc")      # the paper's settings

Importing this module registers the backbone `dc_tf_vgg16` and the experiment. The backbone outputs
conv13 after ReLU, at a stride of 16 pixels, as level 4, and max-pooled copies as levels 5 and 6.
There is no feature pyramid network: with a decoder of type `identity` each level has one of the
three anchor sizes, and all but very large regions are cropped from conv13, as in Fast R-CNN. Batch
norm uses its running statistics, also in training.
"""

import dataclasses

import tensorflow as tf
from official.core import config_definitions, exp_factory
from official.modeling import hyperparams, optimization
from official.vision.configs import backbones, decoders, maskrcnn
from official.vision.configs.common import NormActivation
from official.vision.modeling.backbones import factory

from dc_tf import keras
from dc_tf.nn.vgg16 import VGG16

BACKBONE = "dc_tf_vgg16"
EXPERIMENT = "dc_tf_fasterrcnn_vgg16_voc"
MIN_LEVEL, MAX_LEVEL = 4, 6
STRIDE = 2**MAX_LEVEL  # sides of the network's input are multiples of it


@dataclasses.dataclass
class Vgg16(hyperparams.Config):
    """Settings of `VGG16`."""

    width: float = 1.0
    sobel: bool = True
    folded: bool = False
    compute_dtype: str = "float32"


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """The backbones of tf-models-official and `dc_tf_vgg16`."""

    type: str | None = BACKBONE
    dc_tf_vgg16: Vgg16 = dataclasses.field(default_factory=Vgg16)


class VggBackbone(keras.Model):
    """Maps (b, h, w, 3) normalised RGB to {"4", "5", "6"}: conv13 at strides 16, 32 and 64.

    Args:
        trunk: VGG16, whose convolutions are shared, not copied.
        input_shape: (h, w), multiples of STRIDE.
    """

    def __init__(self, trunk: VGG16, input_shape=(STRIDE, STRIDE)):
        super().__init__(name="vgg16_backbone")
        self.stem = trunk.stem
        self.blocks = trunk.blocks
        channels = trunk.blocks[-1][-1].conv.filters
        self._output_specs = {
            str(level): tf.TensorShape(
                [None, *(side // 2**level for side in input_shape), channels]
            )
            for level in range(MIN_LEVEL, MAX_LEVEL + 1)
        }

    @property
    def output_specs(self) -> dict:
        """{level: shape}, as tf-models-official requires."""
        return self._output_specs

    def call(self, images) -> dict:
        x = self.stem(images)
        for number, block in enumerate(self.blocks):
            if number:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            for conv in block:
                x = conv(x, training=False)
        x = tf.cast(x, tf.float32)
        maps = {str(MIN_LEVEL): x}
        for level in range(MIN_LEVEL + 1, MAX_LEVEL + 1):
            x = maps[str(level)] = tf.nn.max_pool2d(x, 2, 2, "VALID")
        return maps


@factory.register_backbone_builder(BACKBONE)
def build_backbone(
    input_specs, backbone_config, norm_activation_config, l2_regularizer=None
) -> VggBackbone:
    """Builder function of the backbone, called by tf-models-official."""
    del norm_activation_config  # VGG16 has fixed settings
    settings = backbone_config.get().as_dict()
    trunk = VGG16(**settings)
    for block in trunk.blocks:
        for conv in block:
            conv.conv.kernel_regularizer = l2_regularizer
    return VggBackbone(trunk, tuple(input_specs.shape[1:3]))


@exp_factory.register_config_factory(EXPERIMENT)
def experiment() -> config_definitions.ExperimentConfig:
    """Faster R-CNN on VGG-16 for VOC 2007, with those settings for FC68 that the paper gives.

    The caller sets `task.train_data.input_path` and `task.init_checkpoint`.
    """
    return config_definitions.ExperimentConfig(
        task=maskrcnn.MaskRCNNTask(
            model=model_config(classes=20),
            losses=maskrcnn.Losses(l2_weight_decay=1e-4),
            train_data=maskrcnn.DataConfig(
                is_training=True,
                dtype="float32",
                global_batch_size=2,
                parser=maskrcnn.Parser(
                    # Relative to 960: long sides of 4:3 images with a short side of 400 to 700.
                    aug_rand_hflip=True,
                    aug_scale_min=400 * 4 / 3 / 960,
                    aug_scale_max=700 * 4 / 3 / 960,
                ),
            ),
            init_checkpoint_modules="backbone",
            freeze_backbone=True,
        ),
        trainer=trainer_config(150_000, 0.01, (50_000,), 0.1),
    )


def model_config(classes, side=960, backbone=None, head_units=4096) -> maskrcnn.MaskRCNN:
    """Faster R-CNN with two fully connected layers on 7 x 7 cells of conv13, without masks."""
    return maskrcnn.MaskRCNN(
        num_classes=classes + 1,
        input_size=[side, side, 3],
        min_level=MIN_LEVEL,
        max_level=MAX_LEVEL,
        include_mask=False,
        mask_head=None,
        mask_sampler=None,
        mask_roi_aligner=None,
        backbone=backbone or Backbone(),
        decoder=decoders.Decoder(type="identity"),
        rpn_head=maskrcnn.RPNHead(num_convs=1, num_filters=512),
        detection_head=maskrcnn.DetectionHead(num_convs=0, num_fcs=2, fc_dims=head_units),
        norm_activation=NormActivation(norm_momentum=0.99, norm_epsilon=1e-5, use_sync_bn=False),
    )


def trainer_config(
    steps, rate, drops, factor, momentum=0.9, warmup=0, steps_per_loop=100
) -> config_definitions.TrainerConfig:
    """SGD with a learning rate that is multiplied by `factor` at each step in `drops`."""
    schedule = {
        "optimizer": {"type": "sgd", "sgd": {"momentum": momentum}},
        "learning_rate": {
            "type": "stepwise",
            "stepwise": {
                "boundaries": list(drops),
                "values": [rate * factor**i for i in range(len(drops) + 1)],
            },
        },
    }
    if warmup:
        schedule["warmup"] = {
            "type": "linear",
            "linear": {"warmup_steps": warmup, "warmup_learning_rate": rate / 10},
        }
    return config_definitions.TrainerConfig(
        train_steps=steps,
        steps_per_loop=steps_per_loop,
        summary_interval=steps_per_loop,
        checkpoint_interval=10 * steps_per_loop,
        max_to_keep=2,
        preemption_on_demand_checkpoint=False,
        optimizer_config=optimization.OptimizationConfig(schedule),
    )
