"""Measures the optimisation step beside Keras and PyTorch steps of the same shape.

    python benchmarks/step.py --output=benchmarks/results/step.json                # all parts
    python benchmarks/step.py --parts=alone --resolution=96 --batch=16

alone    seconds per step on one worker: ours in float32 and bfloat16 (with --xla also compiled),
         plain Keras layers and optimizer, and PyTorch with channels last or first, in turns.
extract  seconds in which features of as many images are computed, by the same networks.
train    images/s of `launch/local.py -- train` with the quickstart's network on 1, 2 and 4 workers
         that share all cores, including reading and augmentation.
workers  1, 2 and 4 workers of one thread with equally many images each: batch norm over the world,
         groups or each worker, and each exchange separately.
messages 2 and 4 workers of one thread: a large tensor exchanged in one message or several.
heads    one super-class of 1,000 and of 80,000 sub-classes, from its gradient and from factors.
updates  CPU seconds in which SGD changes a large head: from a gradient, and from its factors.
losses   memory and time of the product loss (Eq. 4) beside the hierarchy (Eq. 5) on 4 workers, for
         growing k.
wire     bytes that a worker sends in a step, and steps over a slow wire, on hosts in network
         namespaces (`wire.py`); memory of a large head that two workers share.

`alone`, `extract`, `workers` and `heads` use the full network, `losses` a small one. Times are
medians over the steps after the first; ratios are within one run.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import wire as wire_part
from absl import app, flags
from processes import joined, last_lines, run_parts, show, with_threads

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = flags.FLAGS
PARTS = ("alone", "extract", "train", "workers", "messages", "heads", "updates", "losses", "wire")
flags.DEFINE_list("parts", list(PARTS), "What to measure.")
flags.DEFINE_integer("resolution", 224, "Side of the images.")
flags.DEFINE_integer("batch", 8, "Images of a worker in one step.")
flags.DEFINE_float("width", 1.0, "Of the network of `alone` and `extract`.")
flags.DEFINE_integer("fc", 4096, "Units of fc6 and fc7 in these.")
flags.DEFINE_list("types", ["float32", "bfloat16"], "What these compute in.")
flags.DEFINE_integer("steps", 4, "Measured steps of each.")
flags.DEFINE_integer("threads", os.cpu_count(), "Of the parts `alone`, `extract` and `heads`.")
flags.DEFINE_bool("xla", False, "Measure the compiled step as well (it compiles for minutes).")
flags.DEFINE_list("sub_classes", ["1000", "80000"], "k of the heads part.")
flags.DEFINE_list("product_sub_classes", ["1000", "4000", "16000"], "k of the losses part.")
flags.DEFINE_list("wire_rates", ["", "1gbit", "200mbit"], "Of the wire part, as of `tc`.")
flags.DEFINE_list("wire_workers", ["2"], "Numbers of workers of the wire part.")
flags.DEFINE_list("wire_kinds", list(wire_part.KINDS), "Of the wire part, see `wire.py`.")
flags.DEFINE_string("output", None, "JSON of all results.")
flags.DEFINE_string("role", None, "Internal: what a child process does.")
flags.DEFINE_string("task", None, "Internal: its arguments, JSON.")


def main(_) -> None:
    run_parts(FLAGS, PARTS, globals(), ROLES)


# One worker.


def measure_alone() -> dict:
    return beside_others("alone", xla=FLAGS.xla)


def measure_extract() -> dict:
    return beside_others("extract")


def beside_others(role, **task) -> dict:
    """Medians over the steps of each network of a role, and our speed over that of the others."""
    shape = {name: FLAGS[name].value for name in ("resolution", "batch", "width", "fc")}
    task |= dict(**shape, types=FLAGS.types, steps=FLAGS.steps)
    (times,) = children(role, task, environments=[with_threads(FLAGS.threads)])
    seconds, cpu = (
        {name: statistics.median(turn[i] for turn in of) for name, of in times.items()}
        for i in range(2)
    )
    rates = {name: FLAGS.batch / of for name, of in seconds.items()}
    result = {**shape, "seconds_per_step": seconds, "images_per_second": rates}
    result["cpu_seconds_per_step"] = cpu
    ours = next(rate for name, rate in rates.items() if name.startswith("dc_tf"))
    result["ours_by_others"] = {name: ours / rate for name, rate in rates.items()}
    show(result)
    return result


def alone(types, steps, xla, **shape) -> dict:
    """{name: (seconds, CPU seconds) of each step}, measured in turns."""
    from dc_tf.distributed.cluster import connect

    # One super-class, so one classifier of 1,000 as the others have.
    ours = dict(**shape, rotations=1, cluster=connect())
    kinds = {}
    for name in types:
        kinds[f"dc_tf {name}"] = our_step(**ours, compute_dtype=name)
        policy = name if name == "float32" else f"mixed_{name}"
        kinds[f"keras {name}"] = keras_step(**shape, policy=policy)
    if xla:
        kinds["dc_tf float32 xla"] = our_step(**ours, xla=True)
    return in_turns(kinds | torch_kinds(torch_step, **shape), steps)


def extract(types, steps, resolution, batch, width, fc) -> dict:
    """{name: (seconds, CPU seconds) of each batch}: fc7 before its ReLU with frozen batch norm."""
    import tensorflow as tf

    from dc_tf.nn.projection import clustered_features
    from dc_tf.nn.vgg16 import VGG16

    kinds = {}
    for name in types:
        trunk = VGG16(width=width, resolution=resolution, fc=fc, compute_dtype=name)
        images = tf.random.uniform([batch, resolution, resolution, 3])
        features = clustered_features(trunk.built_at_resolution())
        kinds[f"dc_tf {name}"] = lambda f=features, x=images: f(x).numpy()
        policy = name if name == "float32" else f"mixed_{name}"
        kinds[f"keras {name}"] = keras_features(resolution, batch, policy, width, fc)
    shape = dict(resolution=resolution, batch=batch, width=width, fc=fc)
    return in_turns(kinds | torch_kinds(torch_features, **shape), steps)


def in_turns(kinds, steps) -> dict:
    """{name: (seconds, CPU seconds) of each step}."""
    times = {name: [] for name in kinds}
    for turn in range(steps + 1):
        for name, step in kinds.items():
            begun = time.process_time()
            seconds = timed(step)
            if turn:  # the first traces
                times[name].append((seconds, time.process_time() - begun))
    return times


def our_step(
    cluster, resolution, batch, sub_classes=1000, rotations=4, fc=4096, **changes
) -> Callable:
    """A function that runs one step of a new `Learner`; `changes` are of model or stage."""
    import tensorflow as tf

    from dc_tf.data.input.batch_plan import BatchPlan
    from dc_tf.distributed.topology import Topology
    from dc_tf.experiment import Model, Stage
    from dc_tf.nn.vgg16 import VGG16
    from dc_tf.training.step.learner import Learner

    width, loss = changes.pop("width", 1.0), changes.pop("loss", "hierarchical")
    model = Model(width=width, resolution=resolution, fc=fc, **changes)
    stage = Stage(
        clusters=1,
        rotations=rotations,
        sub_clusters=sub_classes,
        loss=loss,
        batch_size=batch * cluster.size,
    )
    plan = BatchPlan(1, rotations, batch * cluster.size, Topology(cluster.size, rotations))
    with cluster.strategy.scope():
        trunk = VGG16(
            width=width, resolution=resolution, fc=fc, compute_dtype=model.compute_dtype
        ).built_at_resolution()
    learner = Learner(cluster, plan, trunk, stage, model)
    learner.start_round(0)
    images, super_id, sub_id = batch_of(resolution, batch, rotations, sub_classes)
    super_id = np.repeat(plan.topology.served(cluster.rank), plan.per_served).astype(np.int32)
    inputs = {"image": images, "super_id": super_id, "sub_id": sub_id}
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    step_seed = tf.constant(0)
    return lambda: learner.step(inputs, step_seed).numpy()


def batch_of(resolution, batch, supers, subs) -> tuple:
    random = np.random.default_rng(0)
    images = random.random((batch, resolution, resolution, 3), np.float32)
    super_id = np.repeat(np.arange(supers, dtype=np.int32), batch // supers)
    return images, super_id, random.integers(0, subs, batch, np.int32)


def _keras_net(resolution, policy, width, fc):
    """keras.Sequential on input of Sobel's shape, up to fc7 before its ReLU."""
    from dc_tf import keras
    from dc_tf.nn.vgg16 import DROPOUT, channels

    layers = keras.layers
    net = keras.Sequential([layers.InputLayer((resolution + 2, resolution + 2, 2))])
    for block in channels(width):
        for filters in block:
            net.add(layers.Conv2D(filters, 3, padding="same", dtype=policy))
            net.add(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=policy))
            net.add(layers.ReLU(dtype=policy))
        net.add(layers.MaxPool2D(dtype=policy))
    net.add(layers.Flatten(dtype=policy))
    net.add(layers.Dense(fc, activation="relu", dtype=policy))
    net.add(layers.Dropout(DROPOUT, dtype=policy))
    net.add(layers.Dense(fc, dtype=policy))
    return net


def _sobel_like(resolution, batch):
    """(batch, side, side, 2) float32, of the shape of Sobel's output."""
    import tensorflow as tf

    random, side = np.random.default_rng(0), resolution + 2
    return tf.constant(random.standard_normal((batch, side, side, 2), np.float32))


def keras_features(resolution, batch, policy, width, fc) -> Callable:
    """The features of `_keras_net`, with the running statistics of its batch norm."""
    import tensorflow as tf

    net, images = _keras_net(resolution, policy, width, fc), _sobel_like(resolution, batch)

    @tf.function
    def features():
        return tf.cast(net(images, training=False), tf.float32)

    return lambda: features().numpy()


def keras_step(resolution, batch, policy, width, fc, classes=1000) -> Callable:
    """A step of `_keras_net` with one softmax over `classes`."""
    import tensorflow as tf

    from dc_tf import keras

    net = _keras_net(resolution, policy, width, fc)
    net.add(keras.layers.ReLU(dtype=policy))
    net.add(keras.layers.Dense(classes, dtype="float32"))
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, weight_decay=1e-5)
    optimizer.build(net.trainable_variables)
    images = _sobel_like(resolution, batch)
    labels = tf.constant(np.random.default_rng(0).integers(0, classes, batch))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = net(images, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, net.trainable_variables)
        optimizer.apply_gradients(zip(gradients, net.trainable_variables, strict=True))
        return loss

    return lambda: step().numpy()


def torch_kinds(make, **shape) -> dict:
    """{name: what is timed} in both memory formats; none where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        show({"pytorch": "not installed, left out"})
        return {}
    torch.set_num_threads(int(os.environ["TF_NUM_INTRAOP_THREADS"]))
    formats = {"first": torch.contiguous_format, "last": torch.channels_last}
    return {
        f"pytorch channels {name}": make(torch, memory_format, **shape)
        for name, memory_format in formats.items()
    }


def _torch_net(torch, resolution, width, fc) -> list:
    """PyTorch's layers of the same network as `_keras_net`."""
    from dc_tf.nn.vgg16 import DROPOUT, channels, final_map_size

    nn = torch.nn
    layers, before = [], 2
    for block in channels(width):
        for filters in block:
            layers += [nn.Conv2d(before, filters, 3, padding=1), nn.BatchNorm2d(filters)]
            layers.append(nn.ReLU(inplace=True))
            before = filters
        layers.append(nn.MaxPool2d(2))
    features = before * final_map_size(resolution) ** 2
    layers += [nn.Flatten(), nn.Linear(features, fc), nn.ReLU(inplace=True), nn.Dropout(DROPOUT)]
    return [*layers, nn.Linear(fc, fc)]


def _torch_images(torch, memory_format, resolution, batch):
    images = torch.randn(batch, 2, resolution + 2, resolution + 2)
    return images.to(memory_format=memory_format)


def torch_features(torch, memory_format, resolution, batch, width, fc) -> Callable:
    layers = _torch_net(torch, resolution, width, fc)
    net = torch.nn.Sequential(*layers).to(memory_format=memory_format).eval()
    images = _torch_images(torch, memory_format, resolution, batch)

    def features():
        with torch.inference_mode():
            return net(images).numpy()

    return features


def torch_step(torch, memory_format, resolution, batch, width, fc, classes=1000) -> Callable:
    """A PyTorch step of the same network as `keras_step`."""
    nn = torch.nn
    layers = _torch_net(torch, resolution, width, fc)
    layers += [nn.ReLU(inplace=True), nn.Linear(fc, classes)]
    net = nn.Sequential(*layers).to(memory_format=memory_format)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-5)
    images = _torch_images(torch, memory_format, resolution, batch)
    labels = torch.randint(0, classes, (batch,))

    def step():
        sgd.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        sgd.step()
        return loss.item()

    return step


# The whole of training.


def measure_train() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        data, result = os.path.join(folder, "data"), []
        dc_tf = [sys.executable, "-m", "dc_tf"]
        last_lines([[*dc_tf, "generate", f"--output={data}", "--images=3000"]])
        for size in (1, 2, 4):
            run = os.path.join(folder, f"run{size}")
            stage = {"epochs": 2, "clusters": 1, "sub_clusters": 0, "batch_size": 64}
            settings = {"data": {"path": data}, "model": {"compute_dtype": FLAGS.types[0]}}
            settings |= {"log_every": 10, "stages": [stage]}
            command = [sys.executable, os.path.join(ROOT, "launch", "local.py")]
            command += [f"--workers={size}", "--", "train", f"--workdir={run}"]
            command += [f"--config_file={ROOT}/configs/quickstart.yaml"]
            last_lines([[*command, f"--params_override={json.dumps(settings)}"]])
            with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as lines:
                found = [json.loads(line) for line in lines]
            rates = [one["images_per_second"] for one in found if one["event"] == "train"]
            rates = rates[1:]  # the first traces
            line = {"workers": size, "images_per_second": statistics.median(rates)}
            result.append(line | {"all": rates})
            show(result[-1])
    return result


# Several workers.


def measure_workers() -> dict:
    shape = dict(resolution=FLAGS.resolution, batch=FLAGS.batch)
    result = []
    for size in (1, 2, 4):
        found = on_workers("together", size, dict(**shape, steps=FLAGS.steps))
        slowest = {name: max(one[name] for one in found) for name in found[0]}
        result.append({"workers": size, "seconds": slowest})
        show(result[-1])
    return result


def together(resolution, batch, steps) -> dict:
    """{name: median seconds} of steps and of single exchanges on this worker."""
    import tensorflow as tf

    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.collectives import all_sum_packed
    from dc_tf.nn.vgg16 import VGG16, channels

    cluster = connect()
    kinds = {
        f"step, batch norm {sync}": our_step(cluster, resolution, batch, sync_batch_norm=sync)
        for sync in (("world", "group", "off") if cluster.size > 1 else ("world",))
    }
    if cluster.size > 1:
        trunk = VGG16(resolution=resolution).built_at_resolution()
        gradients = [tf.zeros(v.shape) for v in trunk.trainable_variables]
        head = [tf.zeros([4096, 4]), tf.zeros([4])]
        sub_head = [tf.zeros([4096, 20_000]), tf.zeros([20_000])]
        norms = [tf.zeros([1 + 2 * c]) for block in channels(1.0) for c in block]
        world = cluster.world

        @tf.function
        def of_trunk():
            return all_sum_packed(gradients, world)[0]

        @tf.function
        def of_head():
            return all_sum_packed(head, world)[0]

        @tf.function
        def of_sub_head():  # here the group is all workers
            return all_sum_packed(sub_head, world)[0]

        @tf.function
        def of_norms():  # forward and backward
            return [world.all_sum(norm) for norm in (*norms, *norms)]

        kinds |= {"gradients of the trunk": of_trunk, "of the super-class head": of_head}
        kinds["of a head of 20,000 sub-classes"] = of_sub_head
        kinds["26 exchanges of batch norm"] = of_norms
    times = {name: [] for name in kinds}
    for turn in range(steps + 1):
        for name, work in kinds.items():
            cluster.world.barrier()
            seconds = timed(work)
            if turn:
                times[name].append(seconds)
    cluster.leave()
    return {name: statistics.median(of) for name, of in times.items()}


def measure_messages() -> dict:
    result = []
    for size in (2, 4):
        found = on_workers("messages", size, dict(steps=FLAGS.steps))
        for name in found[0]:
            # An exchange ends when the slowest worker has the result.
            turns = [
                [max(seconds) for seconds in zip(*turn, strict=True)]
                for turn in zip(*(one[name] for one in found), strict=True)
            ]
            line = {"workers": size, "tensor": name}
            line["one_message"], line["cut"] = map(statistics.median, zip(*turns, strict=True))
            line["times"] = statistics.median(whole / cut for whole, cut in turns)
            result.append(line)
            show(line)
    return result


def messages(steps) -> dict:
    """{tensor: (seconds in one message, seconds in several) of each turn} on this worker."""
    import tensorflow as tf

    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.collectives import all_sum_packed

    cluster = connect()
    shapes = {"head of 20,000 sub-classes": (4096, 20_000), "fc6 at 224 pixels": (25_088, 4096)}
    times = {}
    for name, shape in shapes.items():
        tensor = tf.zeros(shape)

        @tf.function
        def whole(tensor=tensor):
            return all_sum_packed([tensor], cluster.world, pack_bytes=1 << 40)

        @tf.function
        def cut(tensor=tensor):
            return all_sum_packed([tensor], cluster.world)

        times[name] = []
        for turn in range(steps + 1):
            seconds = []
            for work in (whole, cut):
                cluster.world.barrier()
                seconds.append(timed(work))
            if turn:
                times[name].append(seconds)
    cluster.leave()
    return times


# Large heads.


def measure_heads() -> dict:
    result = []
    for k in map(int, FLAGS.sub_classes):
        for exchange in ("gradients", "factors"):
            task = dict(
                resolution=FLAGS.resolution,
                batch=FLAGS.batch,
                steps=FLAGS.steps,
                sub_classes=k,
                rotations=1,
                exchange=exchange,
            )
            (found,) = children("one", task, environments=[with_threads(FLAGS.threads)])
            result.append({"sub_classes": k, "exchange": exchange, **found})
            show(result[-1])
    return result


def measure_losses() -> dict:
    result = []
    for k in map(int, FLAGS.product_sub_classes):
        for loss in ("hierarchical", "product"):
            task = dict(resolution=32, batch=32, steps=FLAGS.steps, sub_classes=k, loss=loss)
            found = on_workers("one", 4, dict(**task, fc=512, width=1 / 16))
            line = {name: max(one[name] for one in found) for name in found[0]}
            result.append({"sub_classes": k, "loss": loss, **line})
            show(result[-1])
    return result


def one(steps, **task) -> dict:
    """Median seconds of a step, and the MB by which it raises the peak memory."""
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    before = peak_mb()
    step = our_step(cluster, **task)
    times = []
    for _ in range(steps + 1):
        cluster.world.barrier()
        times.append(timed(step))
    cluster.leave()
    seconds = statistics.median(times[1:])
    return {"seconds_per_step": seconds, "added_mb": peak_mb() - before}


def measure_updates() -> list[dict]:
    """Of a head of 4096 x 20,000 on one thread, with factors of 16 and of 32 rows."""
    tasks = [dict(rows=rows, shape=[4096, 20_000], steps=FLAGS.steps) for rows in (16, 32)]
    result = []
    for task in tasks:
        result += children("updates", task, environments=[with_threads(1)])
        show(result[-1])
    return result


def updates(rows, shape, steps) -> dict:
    """Median CPU seconds of each form."""
    import tensorflow as tf

    from dc_tf.distributed.cluster import connect
    from dc_tf.training.optimizers.sgd import FusedSGD

    connect()
    head, decay = tf.Variable(tf.random.normal(shape)), 1e-5
    optimizer = FusedSGD(0.01, momentum=0.9)
    optimizer.build([head])
    inputs, slopes = (tf.random.normal([rows, dim]) for dim in shape)

    def from_gradient():
        gradient = tf.matmul(inputs, slopes, transpose_a=True)
        optimizer.apply_gradients([(gradient + decay * head, head)])

    def from_factors():
        optimizer.apply_product(inputs, slopes, head, decay)

    found = {"rows": rows}
    for work in (from_gradient, from_factors):
        step = tf.function(work, autograph=False)
        seconds = [_cpu_seconds(step) for _ in range(steps + 1)]
        found[work.__name__] = statistics.median(seconds[1:])
    return found


def _cpu_seconds(work) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure_wire() -> dict:
    plans = wire_part.paper_plans()
    for line in plans:
        show(line)
    shape = {name: FLAGS[name].value for name in ("resolution", "batch", "width", "fc")}
    task = dict(**shape, steps=FLAGS.steps, sub_classes=int(FLAGS.sub_classes[0]), rotations=1)
    task["kinds"] = FLAGS.wire_kinds
    hosts = []
    for workers in map(int, FLAGS.wire_workers):
        hosts += wire_part.over_hosts(task, workers, FLAGS.wire_rates)
    for line in hosts:
        show(line)
    limited = [line for line in hosts if line.get("rate") in wire_part.RATES]
    if "alone" in FLAGS.wire_kinds:
        print(wire_part.limits_table(limited, os.cpu_count()), file=sys.stderr)
    return {"plans": plans, "hosts": hosts, "heads": shared_heads()}


def shared_heads() -> list[dict]:
    """Seconds and memory of a small network's step with one head of 20,000 on two workers."""
    task = dict(resolution=32, batch=16, width=1 / 16, fc=4096, sub_classes=20_000, rotations=1)
    result = []
    for exchange in ("gradients", "factors"):
        found = on_workers("one", 2, dict(**task, steps=FLAGS.steps, exchange=exchange))
        result.append({"exchange": exchange})
        result[-1] |= {name: max(one[name] for one in found) for name in found[0]}
        show(result[-1])
    return result


def wire(**task) -> list[dict]:
    return wire_part.wire(our_step, **task)


ROLES = {
    "wire": wire,
    "alone": alone,
    "extract": extract,
    "together": together,
    "messages": messages,
    "one": one,
    "updates": updates,
}


def children(role, task, environments) -> list:
    command = [sys.executable, os.path.abspath(__file__), f"--role={role}"]
    command.append(f"--task={json.dumps(task)}")
    return last_lines([command] * len(environments), environments)


def on_workers(role, size, task) -> list:
    environments = joined(size) if size > 1 else [{}]
    return children(role, task, [one | with_threads(1) for one in environments])


def timed(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    app.run(main)
