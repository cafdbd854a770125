"""Trains a trunk with SimCLR, SwAV or DINO of `lightly`; `peers.py` starts it as a process.

    python benchmarks/peer_training.py --method=simclr --data=DATA --jitter=0.5 \\
        --settings='{"resolution": 32}' --seconds=1800 --output=simclr.pth

Heads, losses and augmentation are lightly's, the loop is this file's; every method sees two views
of each image. Writes the trunk's weights for `dc_tf import_torch`, and beside them OUTPUT.json
with seconds, views trained on, those through a teacher, views per second and the share of time
spent waiting for images. Views are counted in whole batches, at most `--images` of them.
Training is saved to OUTPUT.state every minute, and the same call goes on from there, with the
images in another order. Needs the extra `peers`.
"""

import argparse
import copy
import dataclasses
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator

import torch
import torchvision_operators  # noqa: F401
from lightly.loss import DINOLoss, NTXentLoss, SwaVLoss
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn
from torch_trunks import TRUNKS

from dc_tf import atomic
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader

VIEWS = 2
_WARM_UP = 0.05  # share of the budget in which the learning rate grows
_TIMED_STEPS = 3  # of each number format, to choose the faster one


class SimCLR(nn.Module):
    """Chen et al. 2020: each view finds the other view of its image in the batch."""

    def __init__(self, trunk):
        super().__init__()
        dim = trunk.feature_dim
        self.trunk = trunk
        self.head = heads.SimCLRProjectionHead(dim, dim, 128)
        self.loss = NTXentLoss(temperature=0.2)

    def forward(self, views) -> torch.Tensor:
        outputs = self.head(torch.relu(self.trunk(torch.cat(views)))).float()
        with torch.autocast(outputs.device.type, enabled=False):
            return self.loss(*outputs.chunk(VIEWS))

    def after_step(self) -> None:
        """Nothing follows the optimizer's step."""


class SwAV(nn.Module):
    """Caron et al. 2020: each view predicts the other view's assignment to prototypes."""

    def __init__(self, trunk, prototypes=200):
        super().__init__()
        dim = trunk.feature_dim
        self.trunk = trunk
        self.head = heads.SwaVProjectionHead(dim, dim, 128)
        self.prototypes = heads.SwaVPrototypes(128, prototypes)
        self.loss = SwaVLoss()

    def forward(self, views) -> torch.Tensor:
        self.prototypes.normalize()
        outputs = self.head(torch.relu(self.trunk(torch.cat(views)))).float()
        logits = self.prototypes(nn.functional.normalize(outputs, dim=1)).float()
        with torch.autocast(outputs.device.type, enabled=False):
            return self.loss(list(logits.chunk(VIEWS)), [])

    def after_step(self) -> None:
        """Nothing follows the optimizer's step."""


class DINO(nn.Module):
    """Caron et al. 2021: each view predicts a moving average's output of the other view."""

    def __init__(self, trunk, outputs=1024, momentum=0.99):
        super().__init__()
        dim = trunk.feature_dim
        self.trunk, self.momentum = trunk, momentum
        self.head, twin = (
            heads.DINOProjectionHead(dim, dim, 128, outputs, freeze_last_layer=-1) for _ in range(2)
        )
        twin.load_state_dict(self.head.state_dict())
        self.teacher = nn.ModuleList([copy.deepcopy(trunk), twin])
        deactivate_requires_grad(self.teacher)
        self.loss = DINOLoss(outputs, warmup_teacher_temp_epochs=1)

    def forward(self, views) -> torch.Tensor:
        images = torch.cat(views)
        student = self.head(torch.relu(self.trunk(images))).float()
        with torch.no_grad():
            teacher = self.teacher[1](torch.relu(self.teacher[0](images))).float()
        with torch.autocast(student.device.type, enabled=False):
            return self.loss(list(teacher.chunk(VIEWS)), list(student.chunk(VIEWS)), epoch=1)

    def after_step(self) -> None:
        """Moves the teacher towards the student."""
        update_momentum(self.trunk, self.teacher[0], self.momentum)
        update_momentum(self.head, self.teacher[1], self.momentum)


METHODS = {"simclr": SimCLR, "swav": SwAV, "dino": DINO}


class Images(torch.utils.data.Dataset):
    """Two augmented views of each row of a dc_tf data set, (3, r, r) in [0, 1]."""

    def __init__(self, options, resolution):
        self.reader = RowReader(Dataset.open(options.data))
        self.transform = SimCLRTransform(
            input_size=resolution,
            cj_strength=options.jitter,
            random_gray_scale=options.greyscale,
            gaussian_blur=options.blur,
            min_scale=options.min_crop_area,
            normalize=None,
        )

    def __len__(self):
        return len(self.reader.dataset.labels())

    def __getitem__(self, row):
        encoded = self.reader.examples([row])[0]["encoded"]
        return self.transform(Image.open(io.BytesIO(encoded)).convert("RGB"))


def endless(loader) -> Iterator:
    """Yields the batches of one epoch after another."""
    while True:
        yield from loader


def learning_rate(base, done) -> float:
    """Warm-up, then a cosine to 0; `done` is the share of the budget that is used."""
    if done < _WARM_UP:
        return base * done / _WARM_UP
    return base / 2 * (1 + math.cos(math.pi * min(1.0, (done - _WARM_UP) / (1 - _WARM_UP))))


def faster_format(method, views) -> torch.dtype:
    """bfloat16 or float32, whichever takes less time for a step on the method's device."""
    seconds, before = {}, copy.deepcopy(method.state_dict())
    for dtype in (torch.float32, torch.bfloat16):
        for step in range(_TIMED_STEPS):
            if step == 1:  # the first one prepares kernels
                started = time.monotonic()
            loss = loss_of(method, views, dtype)
            loss.backward()
            loss.item()  # waits for the device
        seconds[dtype] = time.monotonic() - started
    method.load_state_dict(before)
    return min(seconds, key=seconds.get)


def loss_of(method, views, dtype) -> torch.Tensor:
    """The loss with products in `dtype`."""
    device = next(method.parameters()).device
    views = [view.to(device, memory_format=torch.channels_last) for view in views]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return method(views)


def whole_batches(images, batch) -> int:
    """The most views up to `images` in whole batches, at least one; 0 without a budget of views."""
    return max(1, images // batch) * batch if images else 0


@dataclasses.dataclass
class Progress:
    """What training has used, its last loss, and the type of its products once it is chosen."""

    seconds: float = 0.0
    waited: float = 0.0
    images: int = 0
    loss: float = math.nan
    compute_dtype: str = ""

    def share(self, most, seconds) -> float:
        """Of a budget of `most` views, or of seconds if that is 0."""
        return self.images / most if most else self.seconds / seconds


class State:
    """A training's file: what a call that was interrupted leaves for the next one.

    Args:
        path: the file.
        method, optimizer: whose state it has.
        options: the command line; another one is refused.
    """

    def __init__(self, path, method, optimizer, options):
        self.path = path
        self._parts = {"method": method, "optimizer": optimizer}
        self._options = vars(options)

    def restored(self) -> Progress:
        """Restores the file, if there is one."""
        if not os.path.exists(self.path):
            return Progress()
        found = torch.load(self.path, weights_only=True)
        if found["options"] != self._options:
            raise SystemExit(f"{self.path} is of other flags: {found['options']}; delete it.")
        for name, part in self._parts.items():
            part.load_state_dict(found[name])
        progress = Progress(**found["progress"])
        print(f"{self.path}: goes on after {progress.images:,} views", file=sys.stderr)
        return progress

    def save(self, progress) -> None:
        """Replaces the file."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"progress": dataclasses.asdict(progress), "options": self._options}
        atomic.write_file(self.path, lambda file: torch.save(state, file))


def train(method, loader, options) -> dict:
    """Trains until the budget is used; returns what it took."""
    optimizer = torch.optim.SGD(
        [weight for weight in method.parameters() if weight.requires_grad],
        lr=0.0,
        momentum=0.9,
        weight_decay=options.weight_decay,
    )
    state = State(f"{options.output}.state", method, optimizer, options)
    progress = state.restored()
    torch.manual_seed(options.seed + progress.images)  # not the images and crops of the beginning
    batches = endless(loader)
    if not progress.compute_dtype:
        chosen = faster_format(method, next(batches))
        progress.compute_dtype = str(chosen).removeprefix("torch.")
    dtype = getattr(torch, progress.compute_dtype)
    most = whole_batches(options.images, VIEWS * loader.batch_size)
    started, saved = time.monotonic() - progress.seconds, progress.seconds
    while (done := progress.share(most, options.seconds)) < 1:
        asked = time.monotonic()
        views = next(batches)
        progress.waited += time.monotonic() - asked
        optimizer.param_groups[0]["lr"] = learning_rate(options.learning_rate, done)
        optimizer.zero_grad()
        loss = loss_of(method, views, dtype)
        loss.backward()
        optimizer.step()
        method.after_step()
        progress.loss = loss.item()  # waits for the device
        progress.images += VIEWS * len(views[0])
        progress.seconds = time.monotonic() - started
        if progress.seconds - saved >= options.save_every:
            state.save(progress)
            saved = progress.seconds
    if not math.isfinite(progress.loss):
        raise SystemExit(f"{options.method} diverged: the loss is {progress.loss}.")
    return {
        "seconds": progress.seconds,
        "images": progress.images,
        "forward_only": progress.images if options.method == "dino" else 0,  # the teacher's
        "images_per_second": progress.images / progress.seconds,
        "waiting": progress.waited / progress.seconds,
        "compute_dtype": progress.compute_dtype,
        "loss": progress.loss,
    }


def main() -> None:
    options = parsed()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device=cuda: this PyTorch sees no GPU; use --device=cpu.")
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    settings = json.loads(options.settings)
    trunk = TRUNKS[options.trunk](**settings)
    method = METHODS[options.method](trunk).to(options.device, memory_format=torch.channels_last)
    method.train()
    found = {} if options.untrained else train(method, batches_of(options, settings), options)
    torch.save({"state_dict": trunk.cpu().state_dict()}, options.output)
    with open(f"{options.output}.json", "w", encoding="utf-8") as file:
        json.dump(found, file)
    if os.path.exists(f"{options.output}.state"):
        os.remove(f"{options.output}.state")


def batches_of(options, settings) -> torch.utils.data.DataLoader:
    """The loader of the data set's views."""
    images = Images(options, settings["resolution"])
    return torch.utils.data.DataLoader(
        images,
        min(options.batch_size, len(images)),
        shuffle=True,
        drop_last=True,
        num_workers=options.loaders,
        persistent_workers=options.loaders > 0,
        pin_memory=options.device == "cuda",
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--method", choices=METHODS, required=True)
    add("--data", required=True, help="data set of dc_tf")
    add("--output", required=True, help="file for the trunk's weights")
    add("--trunk", choices=TRUNKS, default="vgg16")
    add("--settings", required=True, help="JSON: arguments of the trunk")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--seconds", type=float, default=0.0)
    budget.add_argument("--images", type=int, default=0, help="views through the network")
    budget.add_argument("--untrained", action="store_true", help="write initial weights")
    add("--seed", type=int, default=0)
    add("--batch_size", type=int, default=128, help="images, each in two views")
    add("--learning_rate", type=float, default=0.05)
    add("--weight_decay", type=float, default=1e-4)
    add("--min_crop_area", type=float, default=0.3)
    add("--jitter", type=float, default=0.0, help="strength of SimCLR's colour jitter")
    add("--greyscale", type=float, default=0.0, help="probability, as the next one")
    add("--blur", type=float, default=0.0)
    add("--save_every", type=float, default=60.0, help="seconds between savings of the state")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=2, help="of torch")
    add("--loaders", type=int, default=1, help="processes that decode and augment")
    return parser.parse_args()


if __name__ == "__main__":
    main()
