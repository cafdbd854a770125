"""The network of an experiment."""

import dataclasses

from dc_tf.experiment.need import need, need_at_least, need_choice
from dc_tf.hyperparams import Config
from dc_tf.nn.trunks import STEMS, TRUNKS

COMPUTE_DTYPES = ("float32", "bfloat16", "float16", "auto")
SYNC_BATCH_NORM = ("world", "group", "off")
EXCHANGES = ("auto", "gradients", "factors")
EXCHANGE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass
class Model(Config):
    """The trunk and how it is trained; see `dc_tf.nn.trunk.Trunk`.

    Attributes:
        trunk: "vgg16", the paper's, "resnet18" or "resnet50".
        stem: first layers of a ResNet: "imagenet", a 7x7 convolution of stride 2 and a max-pool, or
            "small", a 3x3 convolution, for images of up to about 64 pixels.
        width: multiplies the number of channels of every convolution.
        resolution: side of the images that the network sees, in pixels.
        fc: units of fc6 and of fc7. ResNets have neither, so there it has no effect.
        sobel: take image gradients as input; otherwise normalised RGB.
        compute_dtype: "float32", or products in "bfloat16" or "float16"; weights stay float32. In
            float16 the loss is scaled, and a step whose gradients overflow is skipped. "auto" is
            bfloat16 where that is faster on all workers, else float32 (`dc_tf.precision`); the
            choice is saved in the run and kept when it resumes elsewhere.
        dropout: drop half of fc6 in training. No effect on ResNets, which have no dropout.
        sync_batch_norm: whose images share batch statistics: those of the "world", of the "group"
            of workers that serve the same super-classes, or of each worker alone ("off"). Only with
            "world" does the result not depend on the number of workers.
        xla: compile forward and backward pass; needs batch norm over a single worker.
        exchange: what workers send for the gradient of a dense layer: the "gradients", the
            "factors", inputs and output gradients of all rows, which every worker multiplies, or
            with "auto" for each layer what takes less time, as `--dry_run` prints. With
            "factors" a head of 2^24 weights or more that one worker holds is updated from its
            factors, which saves the memory of its gradient. Results differ by rounding only.
        exchange_gbps: Gb/s that a worker sends, by which "auto" chooses; 0 for 50 with GPUs, and
            between CPUs 1.6, as gRPC does.
        exchange_dtype: "float32", or gradients and factors sent in "bfloat16", half the bytes:
            results then differ by that rounding, 2^-8 of a number, also from those of one worker.
            Between more than three GPUs only factors are: TensorFlow has no all-to-all over NCCL.
    """

    trunk: str = "vgg16"
    stem: str = "imagenet"
    width: float = 1.0
    resolution: int = 224
    fc: int = 4096
    sobel: bool = True
    compute_dtype: str = "float32"
    dropout: bool = True
    sync_batch_norm: str = "world"
    xla: bool = False
    exchange: str = "auto"
    exchange_gbps: float = 0.0
    exchange_dtype: str = "float32"

    @property
    def fixed_size(self) -> bool:
        """Whether the trunk takes images of `resolution` only, for its fully connected layers."""
        return TRUNKS[self.trunk].features is None


def check_model(model: Model) -> None:
    """Refuses what cannot work; raises ConfigError."""
    need_choice("model.trunk", model.trunk, tuple(TRUNKS))
    need_choice("model.stem", model.stem, STEMS)
    smallest = TRUNKS[model.trunk].smallest
    works = f"use imagenet with {model.trunk}, whose first layers are fixed"
    need(model.stem in smallest, "model.stem", model.stem, works)
    works = f"use at least {smallest[model.stem]} pixels"
    need(model.resolution >= smallest[model.stem], "model.resolution", model.resolution, works)
    need(0 < model.width <= 1000, "model.width", model.width, "use a positive number up to 1000")
    need_at_least("model.fc", model.fc, 1)
    need_choice("model.compute_dtype", model.compute_dtype, COMPUTE_DTYPES)
    need_choice("model.sync_batch_norm", model.sync_batch_norm, SYNC_BATCH_NORM)
    need_choice("model.exchange", model.exchange, EXCHANGES)
    works = "use the Gb/s that a worker sends, or 0 for those of the device"
    need(0 <= model.exchange_gbps <= 1e6, "model.exchange_gbps", model.exchange_gbps, works)
    need_choice("model.exchange_dtype", model.exchange_dtype, EXCHANGE_DTYPES)
