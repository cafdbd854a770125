"""Times the training step and the products of k-means on a GPU that has no TensorFlow.

    python benchmarks/gpu.py export --folder=PROGRAMS     # with TensorFlow, on any machine
    python benchmarks/gpu.py measure --folder=PROGRAMS    # with JAX and a GPU, and PyTorch if found

`export` writes the programs that TensorFlow hands to XLA (StableHLO): a whole step of one worker at
the paper's size, 224 pixels, 48 images (3072 over 64 GPUs), a sub-class head of 20,000, in float32
and bfloat16; and the assignment of a chunk of 4,096 rows of 4096 components to 20,000 centroids.
`measure` compiles them for the GPU with the XLA in JAX and times them on random numbers, in turns
with a plain step of PyTorch of the same network, batch and classifier.

The times leave out what TensorFlow adds: launches of kernels that are not compiled, input, and
collectives.
"""

import argparse
import json
import os
import statistics
import time
import typing
from collections.abc import Callable

if typing.TYPE_CHECKING:
    import numpy as np

BATCH, RESOLUTION, CLASSES = 48, 224, 20_000
ROWS, DIM = 4096, 4096  # a chunk of a GPU with 32 GB or more (`clustering/search/tiles.py`)
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["export", "measure"])
    parser.add_argument("--folder", required=True, help="of the programs")
    parser.add_argument("--turns", type=int, default=20, help="of each, after a first")
    options = parser.parse_args()
    globals()[options.what](options)


# With TensorFlow.


def export(options) -> None:
    import tensorflow as tf

    os.makedirs(options.folder, exist_ok=True)
    # As in `dc_tf train`: float32 means float32.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for dtype in DTYPES:
        save(options, f"step_{dtype}", *training_step(dtype))
        save(options, f"assign_{dtype}", *assignment(dtype))
        save(options, f"product_{dtype}", *product(dtype))


def save(options, name, function, inputs) -> None:
    """Writes the StableHLO of `function(*inputs)`."""
    import tensorflow as tf

    ir = function.experimental_get_compiler_ir(*inputs)
    program = ir(stage="stablehlo_serialized")
    path = os.path.join(options.folder, f"{name}.stablehlo")
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(program)
    print(f"{path}: {len(program)} bytes", flush=True)


def training_step(dtype) -> tuple:
    """The step of a worker with one super-class, from images to changed weights."""
    import numpy as np
    import tensorflow as tf

    from dc_tf.data.input.batch_plan import BatchPlan
    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.topology import Topology
    from dc_tf.experiment import Model, Stage
    from dc_tf.nn.vgg16 import VGG16
    from dc_tf.training.step.learner import Learner

    model = Model(resolution=RESOLUTION, compute_dtype=dtype)
    stage = Stage(clusters=1, rotations=1, sub_clusters=CLASSES)
    cluster = connect()
    with cluster.strategy.scope():
        trunk = VGG16(resolution=RESOLUTION, compute_dtype=dtype).built_at_resolution()
    learner = Learner(cluster, BatchPlan(1, 1, BATCH, Topology(1, 1)), trunk, stage, model)
    learner.start_round(0)
    batch = {
        "image": tf.zeros((BATCH, RESOLUTION, RESOLUTION, 3)),
        "super_id": tf.zeros(BATCH, tf.int32),
        "sub_id": tf.constant(np.arange(BATCH), tf.int32),
    }

    @tf.function(jit_compile=True)
    def step(image, super_id, sub_id, seed):
        return learner.step({"image": image, "super_id": super_id, "sub_id": sub_id}, seed)

    return step, (*batch.values(), tf.constant(0))


def assignment(dtype) -> tuple:
    """The program that a pass of k-means runs for each chunk."""
    import tensorflow as tf

    from dc_tf.clustering.search.nearest_on_gpu import NearestOnGpu, winners

    nearest = NearestOnGpu(CLASSES, DIM, dtype)
    nearest.load(tf.zeros((CLASSES, DIM)).numpy())
    return winners, (nearest.prepared(tf.zeros((ROWS, DIM))), *nearest.factors)


def product(dtype) -> tuple:
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def multiply(rows, centroids):
        return tf.matmul(rows, centroids)

    return multiply, factors(dtype)


def factors(dtype) -> tuple:
    import tensorflow as tf

    return tf.zeros((ROWS, DIM), dtype), tf.zeros((DIM, CLASSES), dtype)


# With JAX.


def measure(options) -> None:
    programs = {}
    for file in sorted(os.listdir(options.folder)):
        name, ending = os.path.splitext(file)
        if ending == ".stablehlo":
            with open(os.path.join(options.folder, file), "rb") as stream:
                programs[name] = compiled(name, stream.read())
    programs |= torch_steps()
    seconds = {name: [] for name in programs}
    for turn in range(options.turns + 1):
        for name, run in programs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    print(json.dumps({"seconds": medians, "rates": rates(medians)}, indent=1))


def rates(seconds) -> dict:
    """Images per second, or FLOP/s of products."""
    found = {}
    for name, of in seconds.items():
        if "step" in name:
            found[name] = f"{BATCH / of:.0f} images/s"
        else:
            found[name] = f"{2e-12 * ROWS * DIM * CLASSES / of:.0f} TFLOP/s"
    return found


def compiled(name, program) -> Callable:
    """A function that runs a program on random inputs and waits until it has finished."""
    import jax
    import numpy as np
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jaxlib.mlir import ir

    jax.config.update("jax_enable_x64", True)  # the optimizers count in int64
    started = time.perf_counter()
    backend = jax.devices()[0].client
    with mlir.make_ir_context():
        module = ir.Module.parse(program)
        main_ = next(op for op in module.body.operations if op.name.value == "main")
        drop_copies(main_)
        places = results_in_place(module)
        types = main_.type.inputs
        shapes = [(tuple(t.shape), str(t.element_type)) for t in map(ir.RankedTensorType, types)]
        devices = xla_client.DeviceList(tuple(jax.devices()[:1]))
        executable = backend.compile_and_load(module, devices, xla_client.CompileOptions())
    random = np.random.default_rng(0)
    inputs = [jax.device_put(numbers(random, *shape)) for shape in shapes]
    print(f"{name}: {len(inputs)} inputs, compiled in {time.perf_counter() - started:.1f} s")

    def run():
        results = jax.block_until_ready(executable.execute(inputs))
        for argument, result in places.items():
            inputs[argument] = results[result]

    return run


def drop_copies(function) -> None:
    """Removes the copies of results, an operation of TensorFlow that JAX does not know."""
    for operation in list(function.body.blocks[0].operations):
        if operation.operation.name == "mhlo.copy":
            operation.results[0].replace_all_uses_with(operation.operands[0])
            operation.operation.erase()


def results_in_place(module) -> dict[int, int]:
    """{input: result} of the weights, whose memory is reused for the updated ones."""
    attributes = module.operation.attributes
    if "mhlo.input_output_alias" not in attributes:
        return {}
    return {
        pair["alias"]["parameter_number"].value: pair["output_index"][0]
        for pair in attributes["mhlo.input_output_alias"]
    }


def numbers(random, shape, kind) -> "np.ndarray":
    import ml_dtypes
    import numpy as np

    if kind.startswith(("i", "ui", "si")):
        return np.zeros(shape, {"i32": np.int32, "i64": np.int64, "i1": bool}[kind])
    kind = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}[kind]
    return (0.01 * random.random(shape, np.float32)).astype(kind)


def torch_steps() -> dict:
    """The same network in PyTorch, on precomputed image gradients."""
    try:
        import torch
    except ImportError:
        return {}
    from torch import nn

    torch.backends.cudnn.benchmark = True
    layers, channels = [], 2
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for out in block:
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(True)]
            channels = out
        layers.append(nn.MaxPool2d(2))
    dense = [
        nn.Flatten(),
        nn.Linear(512 * 49, 4096),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
    ]
    net = nn.Sequential(*layers, *dense, nn.ReLU(True), nn.Linear(4096, CLASSES))
    net = net.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-5)
    images = torch.rand(BATCH, 2, RESOLUTION, RESOLUTION, device="cuda")
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH, device="cuda")

    def step(dtype, tf32):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()

    steps = {f"pytorch_step_{dtype}": lambda d=dtype: step(d, tf32=False) for dtype in DTYPES}
    return steps | {"pytorch_step_tf32": lambda: step("float32", tf32=True)}


if __name__ == "__main__":
    main()
