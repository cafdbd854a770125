"""Trunks in PyTorch with the shapes of dc_tf's, for peers that are trained with `lightly`.

    trunk = TRUNKS["vgg16"](width=0.5, resolution=32, fc=512, sobel=True, dropout=False)
    features = trunk(images)        # (b, 3, 32, 32) in [0, 1] -> (b, 512), before ReLU

A trunk's `state_dict` is what `dc_tf import_torch` reads. A trunk takes the settings of all, and
ignores those of others, as `model` of an experiment does. Another trunk is another class in TRUNKS.
"""

import math

import torch
from torch import nn
from torch.nn import functional

# Configuration D of Simonyan and Zisserman 2015; 0 is a max-pool.
_PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
# Channels and stride of the first block of each stage, He et al. 2015; a stage has two blocks.
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
# Side and stride of a ResNet's first convolution.
_STEMS = {"imagenet": (7, 2), "small": (3, 1)}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SOBEL_X = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


class Input(nn.Module):
    """The fixed input stage: image gradients or normalised RGB, with a ring of one more pixel.

    Args:
        sobel: whether it computes image gradients.
    """

    def __init__(self, sobel):
        super().__init__()
        self.sobel, self.channels = sobel, 2 if sobel else 3
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        gradients = torch.tensor(_SOBEL_X)
        gradients = torch.stack([gradients, gradients.T])[:, None]
        self.register_buffer("gradients", gradients, persistent=False)

    def forward(self, images) -> torch.Tensor:
        """(b, 2 or 3, r + 2, r + 2) from (b, 3, r, r) in [0, 1]."""
        images = (images - self.mean) / self.std
        if not self.sobel:
            return functional.pad(images, (1, 1, 1, 1))
        grey = functional.pad(images.mean(1, keepdim=True), (2, 2, 2, 2))
        return functional.conv2d(grey, self.gradients)


class VGG16(nn.Module):
    """VGG-16 with batch norm, on image gradients or on normalised RGB.

    Attributes:
        feature_dim: length of the features.

    Args:
        width: multiplies the channels.
        resolution: side of the square images in pixels.
        fc: units of fc6 and fc7.
        sobel: whether the input stage computes image gradients.
        dropout: whether training drops half of fc6.
        others: settings of other trunks, without effect.
    """

    def __init__(self, width=1.0, resolution=224, fc=4096, sobel=True, dropout=True, **others):
        super().__init__()
        self.input, self.feature_dim = Input(sobel), fc
        layers, channels, side = [], self.input.channels, resolution + 2
        for entry in _PLAN:
            if entry:
                outputs = _scaled(entry, width)
                layers += [_conv(channels, outputs, 3), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU(inplace=True))
                channels = outputs
            else:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers)
        # A place that drops nothing keeps the numbers of the keys.
        drop = nn.Dropout(0.5) if dropout else nn.Identity()
        flat = channels * side * side
        self.classifier = nn.Sequential(nn.Linear(flat, fc), nn.ReLU(), drop, nn.Linear(fc, fc))

    def forward(self, images) -> torch.Tensor:
        """(b, fc) float of fc7 before ReLU, from (b, 3, r, r) in [0, 1]."""
        return self.classifier(torch.flatten(self.features(self.input(images)), 1))


class ResNet18(nn.Module):
    """A residual network of 18 layers, on image gradients or on normalised RGB.

    Attributes:
        feature_dim: length of the features.

    Args:
        width: multiplies the channels.
        stem: "imagenet", a 7x7 convolution of stride 2 and a max-pool, or "small", a 3x3 one.
        sobel: whether the input stage computes image gradients.
        others: settings of other trunks, without effect.
    """

    def __init__(self, width=1.0, stem="imagenet", sobel=True, **others):
        super().__init__()
        self.input = Input(sobel)
        channels, (kernel, stride) = _scaled(_STAGES[0][0], width), _STEMS[stem]
        # The input stage has added one of the pixels that the first convolution pads by.
        self.conv1 = _conv(
            self.input.channels, channels, kernel, stride, kernel // 2 - 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        for number, (entry, stride) in enumerate(_STAGES, 1):
            outputs = _scaled(entry, width)
            blocks = [Block(channels, outputs, stride), Block(outputs, outputs, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            channels = outputs
        self.feature_dim = channels

    def forward(self, images) -> torch.Tensor:
        """(b, feature_dim) float, the mean of the last map, from (b, 3, r, r) in [0, 1]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(self.input(images)))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))


class Block(nn.Module):
    """Two convolutions, to whose output the input is added, through a 1x1 one if it is larger."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride > 1:
            shortcut = _conv(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x) -> torch.Tensor:
        """(b, outputs, h / stride, w / stride) float from (b, inputs, h, w)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


def _scaled(channels, width):
    return max(1, round(channels * width))


def _conv(inputs, outputs, kernel, stride=1, padding=None, bias=True):
    """A convolution with the initial weights of dc_tf; those of linear layers are equal."""
    padding = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (kernel * kernel * outputs)))
    if bias:
        nn.init.zeros_(conv.bias)
    return conv


TRUNKS = {"vgg16": VGG16, "resnet18": ResNet18}
