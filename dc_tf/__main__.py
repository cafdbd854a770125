"""`python -m dc_tf COMMAND` is `dc_tf COMMAND`, for where the console script is not on the path."""

from dc_tf.commands.main import run_and_exit

if __name__ == "__main__":
    run_and_exit()
