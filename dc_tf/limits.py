"""What numbers of settings and flags may be: they become int32 and float32, or seconds to wait."""

INT_LIMIT = 2**31 - 1
FLOAT_LIMIT = 3.4028234663852886e38
# Longer waits overflow the clocks of threads and sockets.
LONGEST_S = 1e9
SECONDS = "use seconds from 0 to 1e9"
