"""What tests need that load our files by other libraries, in processes without this package."""

import importlib.util


def has(*names):
    return all(importlib.util.find_spec(name) for name in names)


OURS = ("dc_tf", "tensorflow", "tf_keras")
KERAS_3 = {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}
LIBRARIES = has("torch", "torchvision", "timm", "safetensors")
INSTALL = "pip install -c constraints.txt --no-deps torchvision timm safetensors (beside torch)"
# Images normalised as torchvision and timm take them. The compiled operations of torchvision, which
# timm imports, fit one build of torch (CPU, or CUDA of one version). Its networks use none, so with
# another build they are declared only, without which the import fails.
PREPARED = """
import glob, importlib.util
import torch
torch.set_num_threads(2)
(folder,) = importlib.util.find_spec("torchvision").submodule_search_locations
try:
    torch.ops.load_library(*glob.glob(f"{folder}/_C*.so"))
except OSError:
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
x = torch.from_numpy((given["images"] - np.float32(mean)) / np.float32(std)).permute(0, 3, 1, 2)
"""
