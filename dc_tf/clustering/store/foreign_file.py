"""What a file is that should be a `.npy` matrix and is not, and what makes a `.npy` file of it.

f"{path} is {describe(path)}."
"""

import os

_START_BYTES = 4096
# Magic number, kind of file, and the call that reads a matrix from {path}.
_KINDS = (
    (b"PK\x03\x04", "a zip archive (.npz or a PyTorch file)", "np.load({path})[NAME]"),
    (b"PAR1", "a Parquet file", "pandas.read_parquet({path}).to_numpy()"),
    (b"\x89HDF\r\n", "an HDF5 file", "h5py.File({path})[NAME][:]"),
    (b"\x1f\x8b", "compressed by gzip", "np.load(gzip.open({path}))"),
    (b"ARROW1", "an Arrow file", "pandas.read_feather({path}).to_numpy()"),
)
_NUMBER = frozenset("0123456789+-.,eE \"'nainf")
# A comma may be decimal, so it separates only where no other does.
_SEPARATORS = ";\t,"


def describe(path) -> str:
    """A clause about a file that can be read and has no readable `.npy` header.

    Args:
        path: of a file that is not empty.
    """
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
    name = repr(os.path.basename(path))
    for magic, kind, load in _KINDS:
        if start.startswith(magic):
            return f"{kind}, not a .npy file; {_advice(load.format(path=name))}"
    line = _first_line(start)
    if line is not None:
        return f"text, not a .npy file; {_advice(_load_text(name, line))}"
    return f"not a .npy file that can be read; {_advice('x')}"


def _advice(matrix):
    return f"save its matrix: np.save('x.npy', {matrix}.astype(np.float32))"


def _first_line(start):
    """The first line of a text file with these bytes; None if it is not text."""
    try:
        text = start[: start.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    lines = text.splitlines()
    return lines[0] if lines and lines[0].replace("\t", " ").isprintable() else None


def _load_text(name, line):
    """The call that reads numbers from a text whose first line is given."""
    separator = next((mark for mark in _SEPARATORS if mark in line), None)
    has_names = not _NUMBER.issuperset(line.replace(separator or " ", " "))
    if separator == ";" and "," in line:  # NumPy reads no decimal commas
        header = "" if has_names else ", header=None"
        return f"pandas.read_csv({name}, sep=';', decimal=','{header}).to_numpy()"
    options = f", delimiter={separator!r}" if separator else ""
    options += ", skiprows=1" if has_names else ""
    return f"np.loadtxt({name}{options})"
