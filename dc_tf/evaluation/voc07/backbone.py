"""Registers trunks as a backbone of tf-models-official, and Faster R-CNN on one as an experiment.

    params = exp_factory.get_exp_config("dc_tf_fasterrcnn_vgg16_voc")      # the paper's settings

Importing this module registers the backbone `dc_tf_trunk` and the experiment. The backbone outputs
the last map after ReLU, VGG-16's conv13 with a stride of 16 pixels, as level 4, and max-pooled
copies as levels 5 and 6. There is no feature pyramid network: with a decoder of type `identity`
each level has one of the three anchor sizes, and all but very large regions are cropped from the
last map, as in Fast R-CNN. Batch norm uses its running statistics, also in training.

A ResNet for images of ImageNet's size has a last map with a stride of 32 pixels, too coarse for
small objects; its last stage is dilated, which makes it 16 (Dai et al. 2017, "Deformable
convolutional networks", section 4.2). That of one for small images has 8, and is level 3.
"""

import dataclasses
import math

import tensorflow as tf
from official.core import config_definitions, exp_factory
from official.modeling import hyperparams, optimization
from official.vision.configs import backbones, decoders, maskrcnn
from official.vision.configs.common import NormActivation
from official.vision.modeling.backbones import factory

from dc_tf import keras
from dc_tf.nn.trunk import Trunk
from dc_tf.nn.trunks import make_trunk, trunk_class

BACKBONE = "dc_tf_trunk"
EXPERIMENT = "dc_tf_fasterrcnn_vgg16_voc"
LARGEST_STRIDE = 16  # of the last map, in pixels
_LEVELS = 3


@dataclasses.dataclass
class TrunkSettings(hyperparams.Config):
    """A name in `nn.trunks.TRUNKS`, and settings of its class; `stem` is of ResNets."""

    kind: str = "vgg16"
    width: float = 1.0
    stem: str = "imagenet"
    sobel: bool = True
    folded: bool = False
    compute_dtype: str = "float32"


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """The backbones of tf-models-official and `dc_tf_trunk`."""

    type: str | None = BACKBONE
    dc_tf_trunk: TrunkSettings = dataclasses.field(default_factory=TrunkSettings)


def detection_trunk(settings: TrunkSettings) -> Trunk:
    """The trunk of a detector, not built; its last map has a stride of at most LARGEST_STRIDE."""
    given = settings.as_dict()
    kind = given.pop("kind")
    names = {*trunk_class(kind).setting_names, "folded", "compute_dtype"}
    given = {name: value for name, value in given.items() if name in names}
    trunk = make_trunk(kind, **given)
    return trunk if trunk.stride <= LARGEST_STRIDE else make_trunk(kind, **given, dilated=True)


def levels_of(trunk: Trunk) -> range:
    """Levels of the maps of its `detection_trunk`; those of level l have a stride of 2^l pixels."""
    first = int(math.log2(min(trunk.stride, LARGEST_STRIDE)))
    return range(first, first + _LEVELS)


def smallest_side(trunk: Trunk) -> int:
    """Sides of the network's input are multiples of it."""
    return 2 ** levels_of(trunk)[-1]


class TrunkBackbone(keras.Model):
    """Maps (b, h, w, 3) normalised RGB to the last map and two copies, each half as large.

    The keys are their levels, see `levels_of`.

    Args:
        trunk: whose convolutions are shared, not copied.
        input_shape: (h, w), multiples of `smallest_side`; None for that.
    """

    def __init__(self, trunk: Trunk, input_shape=None):
        super().__init__(name=f"{trunk.kind}_backbone")
        # Neither an attribute nor a weight of this model: the trunk, which has further layers.
        self._maps = trunk.normalized_maps
        self._last_map = trunk.map_names[-1]
        self._levels = levels_of(trunk)
        self.convolutions = convolutions_of(trunk)
        channels = self.convolutions[-1].conv.filters
        input_shape = input_shape or [smallest_side(trunk)] * 2
        self._output_specs = {
            str(level): tf.TensorShape(
                [None, *(side // 2**level for side in input_shape), channels]
            )
            for level in self._levels
        }

    @property
    def output_specs(self) -> dict:
        """{level: shape}, as tf-models-official requires."""
        return self._output_specs

    def call(self, images) -> dict:
        x = tf.cast(self._maps(images, training=False)[self._last_map], tf.float32)
        maps = {str(self._levels[0]): x}
        for level in self._levels[1:]:
            x = maps[str(level)] = tf.nn.max_pool2d(x, 2, 2, "VALID")
        return maps


def convolutions_of(trunk: Trunk) -> list:
    """Its convolutions with their batch norms, from the input to the output."""
    return [part for part in trunk.parts().values() if hasattr(part, "norm")]


@factory.register_backbone_builder(BACKBONE)
def build_backbone(
    input_specs, backbone_config, norm_activation_config, l2_regularizer=None
) -> TrunkBackbone:
    """Builder function of the backbone, called by tf-models-official."""
    del norm_activation_config  # of the new layers alone
    trunk = detection_trunk(backbone_config.get())
    for part in convolutions_of(trunk):
        part.conv.kernel_regularizer = l2_regularizer
    return TrunkBackbone(trunk, tuple(input_specs.shape[1:3]))


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


def model_config(classes, side=960, settings=None, head_units=4096) -> maskrcnn.MaskRCNN:
    """Faster R-CNN with two fully connected layers on 7 x 7 cells of the last map, without masks.

    Args:
        classes: without the background.
        side: of the square input, in pixels.
        settings: TrunkSettings; None for those of the paper.
        head_units: of both fully connected layers.
    """
    settings = settings or TrunkSettings()
    levels = levels_of(detection_trunk(settings))
    return maskrcnn.MaskRCNN(
        num_classes=classes + 1,
        input_size=[side, side, 3],
        min_level=levels[0],
        max_level=levels[-1],
        include_mask=False,
        mask_head=None,
        mask_sampler=None,
        mask_roi_aligner=None,
        backbone=Backbone(dc_tf_trunk=settings),
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
