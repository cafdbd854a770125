"""The command line: `dc_tf COMMAND --flags`.

A command is a module with a docstring, whose first line is its help, its own
`FLAGS = CommandFlags()` and `run() -> dict`; the dictionary is printed as the last line on
stdout, one JSON object, or on a terminal as a table (`results`). A flag named `ARGUMENT` may be
given without its name. Only the requested command is imported. `launch` parses its own flags: it
has `main(argv) -> exit code` instead.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration, nothing was started; 42 asked to stop,
state saved, start again; 43 another worker failed, died or hangs.
"""

import ast
import contextlib
import errno
import faulthandler
import importlib
import importlib.util
import multiprocessing
import os
import pathlib
import re
import select
import sys
import traceback
from typing import NoReturn

from absl import flags, logging

from dc_tf import __version__
from dc_tf.commands import lazy_tensorflow
from dc_tf.commands.terminal import native_log, results
from dc_tf.commands.terminal.logs import ScreenFormatter
from dc_tf.errors import PREEMPTED, ConfigError, ConfigErrorOfAll, DataError, Preempted

COMMANDS = {
    "generate": "dc_tf.commands.generate",
    "convert": "dc_tf.commands.convert",
    "index": "dc_tf.commands.index",
    "inspect": "dc_tf.commands.inspect",
    "train": "dc_tf.commands.train",
    "launch": "dc_tf.commands.launch",
    "sweep": "dc_tf.commands.sweep",
    "replay": "dc_tf.commands.replay",
    "kmeans": "dc_tf.commands.kmeans",
    "embed": "dc_tf.commands.embed",
    "search": "dc_tf.commands.search",
    "duplicates": "dc_tf.commands.duplicates",
    "curate": "dc_tf.commands.curate",
    "export": "dc_tf.commands.export",
    "import_torch": "dc_tf.commands.import_torch",
    "evaluate": "dc_tf.commands.evaluate",
    "finetune": "dc_tf.commands.finetune",
    "predict": "dc_tf.commands.predict",
    "clusters": "dc_tf.commands.clusters",
    "assign": "dc_tf.commands.assign",
    "report": "dc_tf.commands.report",
    "browse": "dc_tf.commands.browse",
    "doctor": "dc_tf.commands.doctor",
}

DONE, FAILED, WRONG_USAGE = 0, 1, 2
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")  # of NVIDIA's driver; the second under Windows
_HELP = ("--help", "-help", "-h", "help")
_VERSION = ("--version", "version")


def main(argv=None) -> int:
    """Runs one command line.

    Args:
        argv: list of str without the program's name; None: those of the process.

    Returns:
        int, the exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in _HELP:
            print(_overview(), file=sys.stdout if argv else sys.stderr)
            return DONE if argv else WRONG_USAGE
        if argv[0] in _VERSION:
            print(f"dc_tf {__version__}")
            return DONE
        lazy_tensorflow.install()
        return _dispatch(argv[0], argv[1:])
    except ConfigErrorOfAll as error:
        logging.info("%s", error)
        return WRONG_USAGE
    except (ConfigError, flags.Error) as error:
        return _print_error(error, WRONG_USAGE)
    except DataError as error:
        results.show(error.result)
        return _print_error(error, FAILED)
    except Preempted as error:
        return _print_error(f"{error}. Start it again with the same flags to resume.", PREEMPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_ended():
            return DONE
        if error.errno not in _OF_DISKS:
            return _show_trace()
        return _print_error(
            f"{error}; what was saved is intact. Free space and start again.", FAILED
        )
    except KeyboardInterrupt:
        return _print_error(
            "interrupted; what was saved is kept. Start it again with the same flags to resume, or "
            "from the beginning where nothing is saved.",
            FAILED,
        )
    except Exception:  # an exit code for the caller, a traceback for the user
        return _show_trace()


def run_and_exit() -> NoReturn:
    """Runs the process's own command line and ends the process with its exit code.

    Skips the interpreter's shutdown, which can deadlock with a thread of an input pipeline when
    something, such as a traceback, keeps an iterator alive.
    """
    # Names of files may hold bytes that no encoding has.
    sys.stdout.reconfigure(errors="backslashreplace")
    if native_log.begin():
        # All levels, since these lines go to a file and not to the screen.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
        faulthandler.enable(2)
    code = main()
    # They would outlive this process and hold its pipes.
    for child in multiprocessing.active_children():
        child.terminate()
        child.join()
    for finish in (logging.flush, sys.stdout.flush, sys.stderr.flush, native_log.end):
        with _ignoring_disk_errors():
            finish()
    os._exit(code)


def _dispatch(name, args):
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}; use one of {', '.join(COMMANDS)}.")
    # For callers of `main`. Without a GPU, TensorFlow logs as errors that there is none and that a
    # CPU does not multiply in float16.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if _sees_gpu() else "3")
    command = importlib.import_module(COMMANDS[name])
    if hasattr(command, "main"):
        return command.main(args)
    if _asks_for_help(args):
        print(_help(name, command))
        return DONE
    _parse(name, command.FLAGS, args, getattr(command, "ARGUMENT", None))
    results.show(command.run())
    return DONE


def _sees_gpu():
    return any(os.path.exists(path) for path in _GPU_DEVICES)


def _asks_for_help(args):
    before_positionals = args[: args.index("--")] if "--" in args else args
    return any(arg in _HELP[:3] for arg in before_positionals)


def _parse(name, values, args, argument=None):
    """Parses `args` into the command's flag values, without those of an earlier call.

    The first word that is not a flag is the value of the flag `argument`, if there is one.
    """
    _add_verbosity(values)
    for flag in values:
        values[flag].unparse()
    values.set_gnu_getopt(True)  # flags may follow a stray word, which is then reported
    try:
        _, *stray = values([f"dc_tf {name}", *args])
        if stray and argument is not None and argument.value is None:
            values[argument.name].parse(stray.pop(0))
    except flags.Error as error:
        raise ConfigError(_wrong_flags(name, values, str(error))) from error
    if stray:
        raise ConfigError(
            f"dc_tf {name} takes only flags; got {' '.join(stray)!r}. Write "
            "--name=value, and patterns in quotes."
        )
    flags.FLAGS.mark_as_parsed()  # libraries that read absl's global flags get the defaults
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(ScreenFormatter())
    logging.set_verbosity(values.verbosity)


def _wrong_flags(name, values, message):
    missing = re.search(r"Flag --(\w+) must have a value other than None", message)
    if missing:
        flag = missing[1]
        about = values[flag].help.partition(";\n")[0]  # absl adds how to repeat it
        return f"dc_tf {name} needs --{flag}: {about}"
    if "Unknown" in message:
        return f"{message}; see dc_tf {name} --help."
    return message if message.endswith(".") else f"{message}."


def _add_verbosity(values):
    if "verbosity" not in values:
        flags.DEFINE_integer(
            "verbosity",
            -1,
            "Log level: -1 warnings, 0 information, 1 debugging.",
            short_name="v",
            flag_values=values,
        )


def _overview():
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {_first_line(module)}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: dc_tf COMMAND --flags",
            "",
            *lines,
            "",
            "Flags: dc_tf COMMAND --help. Version: dc_tf --version",
        ]
    )


def _first_line(module_name):
    """The help line of a command, read without importing it (and TensorFlow with it)."""
    origin = importlib.util.find_spec(module_name).origin
    return ast.get_docstring(ast.parse(pathlib.Path(origin).read_text())).partition("\n")[0]


def _help(name, command):
    _add_verbosity(command.FLAGS)
    own = [_flag_help(command.FLAGS[flag]) for flag in command.FLAGS if flag != "v"]
    head = f"Usage: dc_tf {name} --flags\n\n{command.__doc__.strip()}\n"
    return "\n".join([head, "Flags:", *own])


def _flag_help(flag):
    names = f"-{flag.short_name}, --{flag.name}" if flag.short_name else f"--{flag.name}"
    if flag.boolean:
        names = f"--[no]{flag.name}"
    default = flag.default_as_str and f" (default: {flag.default_as_str})".replace("'", "")
    return f"  {names}\n      {flag.help}{default or ''}"


def _print_error(error, code):
    with _ignoring_disk_errors():
        print(f"dc_tf: {error}", file=sys.stderr, flush=True)
    return code


def _show_trace():
    with _ignoring_disk_errors():
        native_log.show_last()
        traceback.print_exc()
    return FAILED


def _ignoring_disk_errors():
    """A log that cannot be written must not change the exit code."""
    return contextlib.suppress(OSError)


def _reader_has_ended():
    """Whether the reader of stdout has ended, as in `dc_tf train --help | head`."""
    stdout = select.poll()
    stdout.register(1, 0)  # a pipe without a reader reports an error without being asked for
    return any(event & select.POLLERR for _, event in stdout.poll(0))
