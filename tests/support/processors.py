"""Other processors, imitated by settings that keep libraries from some instructions.

    launch/test.sh --processor=avx2 -m numeric

runs the numeric tests as on a processor without AVX-512. What the settings cannot hide is listed
in BUILD.md. On a processor that lacks what a kind hides, its settings change nothing.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Kind:
    """Settings that stand before any library is loaded.

    Attributes:
        about: what it stands for.
        environment: of all processes of the tests.
        bfloat16: False where TensorFlow cannot multiply in bfloat16 under these settings. It asks
            the processor, not oneDNN, whether oneDNN can, and oneDNN then refuses a convolution
            and ends the process in a product of matrices. A processor without AVX-512 gives these
            products to Eigen, which the kind `eigen` tests.
    """

    about: str
    environment: dict[str, str]
    bfloat16: bool = True


# NumPy, its OpenBLAS and that of SciPy and faiss, faiss itself, XLA.
_AVX2 = {
    "FAISS_SIMD_LEVEL": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}

KINDS = {
    "eigen": Kind(
        "AVX2, with Eigen's kernels: TensorFlow's default without AVX512-VNNI",
        _AVX2 | {"ONEDNN_MAX_CPU_ISA": "AVX2", "TF_ENABLE_ONEDNN_OPTS": "0"},
    ),
    "avx2": Kind(
        "AVX2, with oneDNN",
        _AVX2 | {"ONEDNN_MAX_CPU_ISA": "AVX2", "TF_ENABLE_ONEDNN_OPTS": "1"},
        bfloat16=False,
    ),
}
