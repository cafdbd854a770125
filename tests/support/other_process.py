"""Runs a program in a process that does not see this package.

other_process.run("import keras; ...", images=array)["found"]
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

_FORBIDDEN = """
import sys
wrong = [name for name in {forbidden!r} if name in sys.modules]
assert not wrong, wrong
"""


def run(program, forbidden=("dc_tf",), environment=(), **arrays) -> dict:
    """The arrays that the program puts into its dict `found`, by name.

    Args:
        program: Python; has NumPy as `np` and the arrays in a dict `given`.
        forbidden: modules that must not be imported in the end.
        environment: dict of environment variables.
        arrays: {name: array} for `given`.
    """
    with tempfile.TemporaryDirectory() as folder:
        there, back = (os.path.join(folder, name) for name in ("there.npz", "back.npz"))
        np.savez(there, **arrays)
        text = f"import numpy as np\ngiven, found = dict(np.load({there!r})), {{}}\n{program}\n"
        text += _FORBIDDEN.format(forbidden=forbidden) + f"np.savez({back!r}, **found)\n"
        repository = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        seen = os.pathsep.join(p for p in places if p and os.path.abspath(p) != repository)
        own = {**os.environ, "PYTHONPATH": seen, "CUDA_VISIBLE_DEVICES": "-1", **dict(environment)}
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=folder, env=own, timeout=240, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return dict(np.load(back))
