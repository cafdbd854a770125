"""Hardware constants of one worker, the input of the cost model (`model.py`).

    machine = dataclasses.replace(CORE, disk_bytes_per_s=500e6)

`benchmarks/scaling.py` measures the constants of its own machine.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Product:
    """Speed of products of rows with centroids.

    Attributes:
        flops: FLOP/s of the product.
        score_s: seconds to compare one score, of a row and a centroid, with the best so far.
    """

    flops: float
    score_s: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """Speeds and memory of one worker: measured, or else bounds; see each preset.

    Attributes:
        name: for reports.
        float32, bfloat16: `Product` with such factors.
        double_flops: FLOP/s of float64 products, for the moments of whitening.
        component_s: to read one component of a row from memory and hand it to the product.
        scattered_s: added for a component of a row stored among those of other clusters.
        row_stats_s: to read one component, square and compare it.
        entered_s: to add one component of a row to the sum of its first cluster.
        moved_s: to take one component of a row out of one sum and put it into another.
        centroid_s: for one component of a centroid and iteration, whatever the rows: new sums,
            means, and factors of the next product.
        row_s: for the label of one row and pass.
        eigen_s: of an eigendecomposition of d x d, over d cubed.
        disk_bytes_per_s: reading and writing features; nothing overlaps with it.
        wire_bytes_per_s: sent by a worker while it receives as much.
        wire_latency_s: from a worker to the next.
        host_bytes, device_bytes, disk_bytes: that a worker may use. `device_bytes` is None without
            a GPU.
        runtime_bytes: host memory of Python and TensorFlow.
        images_per_s: of feature extraction; None leaves it out.
        message_cpu_s: of a worker that computes on CPUs, for each byte of a training step that it
            sends while it receives as much; it does not compute meanwhile.
    """

    name: str
    float32: Product
    bfloat16: Product
    double_flops: float
    component_s: float
    scattered_s: float
    row_stats_s: float
    entered_s: float
    moved_s: float
    centroid_s: float
    row_s: float
    eigen_s: float
    disk_bytes_per_s: float
    wire_bytes_per_s: float
    wire_latency_s: float
    host_bytes: float
    device_bytes: float | None
    disk_bytes: float
    runtime_bytes: float
    images_per_s: float | None = None
    message_cpu_s: float = 0.0


# One core of an AMD EPYC (Zen 4) under KVM, measured by `benchmarks/scaling.py`, messages of a
# training step by `benchmarks/step_scaling.py`; the wire is that of two processes on one host.
CORE = Machine(
    name="one core",
    float32=Product(flops=111e9, score_s=0.79e-9),
    bfloat16=Product(flops=213e9, score_s=0.68e-9),
    double_flops=41e9,
    component_s=1.24e-9,
    scattered_s=0.58e-9,
    row_stats_s=1.77e-9,
    entered_s=2.24e-9,
    moved_s=3.2e-9,
    centroid_s=8.9e-9,
    row_s=46e-9,
    eigen_s=1.8e-10,
    disk_bytes_per_s=2.6e9,
    wire_bytes_per_s=201e6,
    wire_latency_s=530e-6,
    host_bytes=12.6e9,
    device_bytes=None,
    disk_bytes=36e9,
    runtime_bytes=0.67e9,
    message_cpu_s=2.8e-9,
)

# An eighth of an Amazon EC2 p4d.24xlarge, one A100 of 40 GB, computed and not measured: the peaks
# of NVIDIA's data sheet (19.5, 312 and 9.7 TFLOP/s; scores written and read at 1555 GB/s), Amazon's
# 400 Gb/s, 1152 GiB, 8 TB and 16 GB/s of the disks together. What is done by the host is taken to
# be as slow as on one core of `CORE`. The latency is a guess.
P4D = dataclasses.replace(
    CORE,
    name="an eighth of a p4d.24xlarge",
    float32=Product(flops=19.5e12, score_s=8 / 1555e9),
    bfloat16=Product(flops=312e12, score_s=4 / 1555e9),
    double_flops=9.7e12,
    disk_bytes_per_s=2e9,
    wire_bytes_per_s=6.25e9,
    wire_latency_s=20e-6,
    host_bytes=144 * 2**30,
    device_bytes=40e9,
    disk_bytes=1e12,
    message_cpu_s=0.0,
)

# The same with the 3.9 TFLOP/s that the paper's 4 minutes for 23 M x 4096 rows, 80,000 clusters and
# 16 GPUs come to (Caron et al. 2019).
PAPER_GPU = dataclasses.replace(
    P4D,
    name="P4D at the rate of the paper's GPUs",
    float32=Product(flops=3.9e12, score_s=0.0),
    bfloat16=Product(flops=3.9e12, score_s=0.0),
)
