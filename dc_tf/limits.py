"""What settings and flags may be: numbers (int32, float32, seconds to wait), and types."""

INT_LIMIT = 2**31 - 1
FLOAT_LIMIT = 3.4028234663852886e38
# Longer waits overflow the clocks of threads and sockets.
LONGEST_S = 1e9
SECONDS = "use seconds from 0 to 1e9"
# Of a type, or another choice: the faster one here.
AUTO = "auto"
# Of the products of a network that is evaluated or fine-tuned.
COMPUTE_DTYPES = (AUTO, "float32", "bfloat16")
