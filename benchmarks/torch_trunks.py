"""Trunks in PyTorch with the shapes of dc_tf's, for peers that are trained with `lightly`.

    trunk = TRUNKS["vgg16"](width=0.5, resolution=32, fc=512, sobel=True)
    features = trunk(images)        # (b, 3, 32, 32) in [0, 1] -> (b, 512), before ReLU

A trunk's `state_dict` is what `dc_tf import_torch` reads. Another trunk is another class in TRUNKS.
"""

import math

import torch
from torch import nn
from torch.nn import functional

# Configuration D of Simonyan and Zisserman 2015; 0 is a max-pool.
_PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SOBEL_X = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


class VGG16(nn.Module):
    """VGG-16 with batch norm, on image gradients or on normalised RGB.

    Attributes:
        feature_dim: length of the features.

    Args:
        width: multiplies the channels.
        resolution: side of the square images in pixels.
        fc: units of fc6 and fc7.
        sobel: whether the input stage computes image gradients.
    """

    def __init__(self, width=1.0, resolution=224, fc=4096, sobel=True):
        super().__init__()
        self.sobel, self.feature_dim = sobel, fc
        layers, channels, side = [], 2 if sobel else 3, resolution + 2
        for entry in _PLAN:
            if entry:
                outputs = max(1, round(entry * width))
                layers += [_conv(channels, outputs), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU(inplace=True))
                channels = outputs
            else:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers)
        flat = channels * side * side
        # Without dropout, as `model.dropout: false`; the place keeps the numbers of the keys.
        self.classifier = nn.Sequential(
            nn.Linear(flat, fc), nn.ReLU(), nn.Identity(), nn.Linear(fc, fc)
        )
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        gradients = torch.tensor(_SOBEL_X)
        gradients = torch.stack([gradients, gradients.T])[:, None]
        self.register_buffer("gradients", gradients, persistent=False)

    def forward(self, images) -> torch.Tensor:
        """(b, fc) float of fc7 before ReLU, from (b, 3, r, r) in [0, 1]."""
        return self.classifier(torch.flatten(self.features(self.stem(images)), 1))

    def stem(self, images) -> torch.Tensor:
        """The fixed input stage: (b, 2 or 3, r + 2, r + 2)."""
        images = (images - self.mean) / self.std
        if not self.sobel:
            return functional.pad(images, (1, 1, 1, 1))
        grey = functional.pad(images.mean(1, keepdim=True), (2, 2, 2, 2))
        return functional.conv2d(grey, self.gradients)


def _conv(inputs, outputs):
    """A 3x3 convolution with the initial weights of dc_tf; those of linear layers are equal."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (3 * 3 * outputs)))
    nn.init.zeros_(conv.bias)
    return conv


TRUNKS = {"vgg16": VGG16}
