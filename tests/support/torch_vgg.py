"""The network of the paper in PyTorch, as an independent reference for tests; needs torch.

network = trained_like(images, sobel=True)
features = network.layers(images)      # {"conv1": (b, c, h, w), ..., "fc7": (b, fc)}
"""

import torch
from torch import nn

# Its threads and TensorFlow's would wait for one another on a small machine.
torch.set_num_threads(1)

# Configuration D; M is a max-pool.
PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchVGG(nn.Module):
    """VGG-16 with batch norm on zero-padded RGB, or behind a fixed Sobel stage.

    Its `state_dict` has the keys of the released files without their prefixes.

    Args:
        width: multiplies the channels.
        resolution: side of the square input, in pixels.
        fc: units of both hidden layers.
    """

    def __init__(self, sobel=True, width=1.0, resolution=224, fc=4096):
        super().__init__()
        self.sobel = _sobel() if sobel else None
        layers, inputs, side = [], 2 if sobel else 3, resolution + 2
        for entry in PLAN:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
                side //= 2
            else:
                outputs = int(entry * width)
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU())
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * side * side, fc), nn.ReLU(), nn.Dropout(), nn.Linear(fc, fc)
        )

    def forward(self, images):
        """(b, fc) of fc7 before ReLU, from (b, 3, r, r) in [0, 1]."""
        return self.classifier(torch.flatten(self.features(self.stem(images)), 1))

    def stem(self, images):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        images = (images - mean) / std
        if self.sobel is None:
            return nn.functional.pad(images, (1, 1, 1, 1))
        return self.sobel(nn.functional.pad(images, (2, 2, 2, 2)))

    def layers(self, images):
        """All convolutions after ReLU, fc6 after ReLU, fc7 before."""
        found, x = [], self.stem(images)
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        named = {f"conv{i + 1}": x for i, x in enumerate(found)}
        named["fc6"] = torch.relu(self.classifier[0](torch.flatten(x, 1)))
        named["fc7"] = self.classifier[3](named["fc6"])
        return named


def trained_like(images, seed=0, offset=0.0, **settings):
    """A network as training leaves it: every weight matters, and maps keep their scale.

    Args:
        images: (b, 3, r, r) in [0, 1], whose statistics the running ones become.
        offset: mean of batch norm's offsets; 2 keeps nearly all units above their ReLU's kink.
    """
    torch.manual_seed(seed)
    network = TorchVGG(resolution=images.shape[-1], **settings)
    norms = [layer for layer in network.features if isinstance(layer, nn.BatchNorm2d)]
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias, std=0.2)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, offset, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.features(network.stem(images))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def _sobel():
    """Grey, then both derivatives; never trained."""
    grey, gradients = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3)
    x = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    with torch.no_grad():
        grey.weight.fill_(1 / 3)
        gradients.weight.copy_(torch.stack([x, x.T])[:, None])
        for layer in (grey, gradients):
            layer.bias.zero_()
    return nn.Sequential(grey, gradients).requires_grad_(False)


def released(network, classes=4):
    """A checkpoint as the paper's program saves it: prefixes, a head, and numbers of training."""
    state = {}
    for key, tensor in network.state_dict().items():
        state[key if key.startswith("sobel.") else f"body.{key}"] = tensor
    state["pred_layer.weight"] = torch.zeros(classes, network.classifier[-1].out_features)
    state["pred_layer.bias"] = torch.zeros(classes)
    return {"epoch": 100, "state_dict": {f"module.{key}": t for key, t in state.items()}}
