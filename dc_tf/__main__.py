"""`python -m dc_tf COMMAND` is `dc_tf COMMAND`, for where the console script is not on the path."""

import sys

from dc_tf.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
