"""Lets torchvision be imported beside another build of torch. Import this before it.

    import torchvision_operators
    import torchvision

The compiled operators of torchvision fit one build of torch (for CPUs, or for CUDA of one version);
with another build its import fails on their names. Networks and transforms use none of them, so
then they are declared only.
"""

import glob
import importlib.util

import torch

_SIGNATURE = "(Tensor a, Tensor b, float c) -> Tensor"

(_folder,) = importlib.util.find_spec("torchvision").submodule_search_locations
try:
    torch.ops.load_library(*glob.glob(f"{_folder}/_C*.so"))
except OSError:
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", _SIGNATURE)
