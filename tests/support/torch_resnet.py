"""Residual networks in PyTorch, as an independent reference for tests; needs torch.

Written from the published description, with the parameter names that torchvision's resnet18 and
resnet50 have: `conv1`, `bn1`, `layer1.0.conv1`, ..., `layer2.0.downsample.0`, ...

network = trained_like(images, (2, 2, 2, 2), width=1 / 8, stem="small")
features = network.layers(images)      # {"conv1": (b, c, h, w), "block1_1": ..., "pool": (b, d)}
"""

import torch
from torch import nn
from torch_vgg import MEAN, STD

# Its threads and TensorFlow's would wait for one another on a small machine.
torch.set_num_threads(1)

RESNET18, RESNET50 = (2, 2, 2, 2), (3, 4, 6, 3)


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Basic(nn.Module):
    def __init__(self, inputs, channels, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, outputs, 3), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs, channels, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = conv(channels, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class TorchResNet(nn.Module):
    """On RGB, or behind `sobel`, a fixed stage whose maps have one more pixel on each side.

    Args:
        depths: blocks of each stage.
        width: multiplies the channels.
        stem: "imagenet" or "small".
        sobel: module, or None.
    """

    def __init__(self, depths, width=1.0, stem="imagenet", sobel=None):
        super().__init__()
        kind, times = (Bottleneck, 4) if depths == RESNET50 else (Basic, 1)
        inputs = int(64 * width)
        colours = 2 if sobel else 3
        # Sobel's maps have the ring of one pixel that padding would add.
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(colours, inputs, 7, 2, 2 if sobel else 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = nn.Conv2d(colours, inputs, 3, 1, 0 if sobel else 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(inputs)
        for stage, depth in enumerate(depths):
            channels = int(64 * 2**stage * width)
            blocks = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(kind(inputs, channels, times * channels, stride))
                inputs = times * channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.sobel = sobel

    def layers(self, images):
        """All maps after ReLU, and the mean of the last, from (b, 3, r, r) in [0, 1]."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        x = (images - mean) / std
        if self.sobel is not None:
            x = self.sobel(nn.functional.pad(x, (2, 2, 2, 2)))
        x = torch.relu(self.bn1(self.conv1(x)))
        found = {"conv1": x}
        x = self.maxpool(x)
        for stage in range(1, 5):
            for number, block in enumerate(getattr(self, f"layer{stage}"), 1):
                x = found[f"block{stage}_{number}"] = block(x)
        found["pool"] = x.mean((2, 3))
        return found


def trained_like(images, depths, seed=0, offset=0.0, **settings):
    """A network as training leaves it: every weight matters, and maps keep their scale.

    Args:
        images: (b, 3, r, r) in [0, 1], whose statistics the running ones become.
        offset: mean of batch norm's offsets; 2 keeps nearly all units above their ReLU's kink.
    """
    torch.manual_seed(seed)
    network = TorchResNet(depths, **settings)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, offset, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.layers(images)
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()
