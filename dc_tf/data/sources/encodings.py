"""Text of other programs: UTF-8, or what a byte-order mark or the caller says; nothing is replaced.

    for number, line in lines("list.csv", encoding="cp1252"):
        raise_if_undecodable("list.csv", number, line)
    decoded(b"caf\\xe9", "latin-1")                       # "café"

A byte that is not text of the encoding becomes a lone surrogate, U+DC00 plus the byte, as Python
represents file names. So no two different texts become equal, and paths still find their files.
"""

import codecs
import io
import re
from collections.abc import Iterator

from dc_tf.data.storage.files import open_binary
from dc_tf.errors import ConfigError, DataError

MAX_LINE = 16 << 20  # characters
_UNDECODABLE = re.compile("[\udc00-\udcff]")
_MARKS = (  # UTF-32 first: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ERRORS = "dc_tf.surrogates"


def _as_surrogates(error):
    """Error handler of decoders: `surrogateescape` for bytes of any value and any encoding."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in wrong), error.end


codecs.register_error(_ERRORS, _as_surrogates)


def check_encoding(encoding) -> None:
    """Checks the name of an encoding; None is UTF-8.

    Raises:
        ConfigError: Python knows no text encoding of this name.
    """
    try:
        "".encode(encoding or "utf-8")
        "a,1".encode(encoding or "utf-8").decode(encoding or "utf-8")
    except (LookupError, UnicodeError, ValueError) as error:
        raise ConfigError(
            f"encoding is {encoding!r}, which Python does not know; use a name such as utf-8, "
            f"utf-16, cp1252 (Windows), latin-1, shift_jis or gb18030."
        ) from error


def lines(path, encoding=None) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line with its end) of a text file.

    Args:
        path: str.
        encoding: str; None: UTF-8. A byte-order mark has precedence.

    Raises:
        DataError: a line is too long, or the text is UTF-16 that nothing names.
    """
    with open_binary(path) as binary:
        encoding = _marked(binary.peek(4)[:4]) or encoding or "utf-8"
        file = io.TextIOWrapper(binary, encoding, _ERRORS, newline="")
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE:
                raise DataError(f"{path}, line {number} is longer than {MAX_LINE} characters.")
            if "\0" in line:
                raise DataError(
                    f"{path}, line {number}, column {line.index(chr(0)) + 1}: a zero byte, which "
                    f"text has only in UTF-16 or UTF-32; if it is one of them, name it, such as "
                    f"--encoding=utf-16-le."
                )
            yield number, line


def raise_if_undecodable(path, number, line, encoding=None) -> None:
    """Checks one line of `lines`.

    Raises:
        DataError: it has a byte that is not text; names line, column and byte.
    """
    if found := undecodable(line):
        column, byte = found
        raise DataError(
            f"{path}, line {number}, column {column}: the byte 0x{byte:02x} is not "
            f"{_name(encoding)}; {ADVICE}."
        )


def undecodable(text) -> tuple[int, int] | None:
    """(column from 1, byte) of the first byte of a text that was not decoded, or None."""
    found = _UNDECODABLE.search(text)
    return (found.start() + 1, ord(found[0]) - 0xDC00) if found else None


def decoded(data, encoding=None) -> str:
    """Decodes a short text; encoding as of `lines`.

    Raises:
        ValueError: a byte is not text of the encoding; names line and column.
    """
    text = data.decode(_marked(data[:4]) or encoding or "utf-8", _ERRORS)
    if found := _UNDECODABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        raise ValueError(
            f"line {line}, column {column}: the byte 0x{ord(found[0]) - 0xDC00:02x} is not "
            f"{_name(encoding)}; {ADVICE}"
        )
    return text


ADVICE = (
    "name the encoding, such as --encoding=cp1252 (Windows) or --encoding=latin-1, or save the "
    "text as UTF-8"
)


def _name(encoding):
    return "UTF-8" if encoding is None else encoding


def _marked(start):
    """The encoding that a byte-order mark states, or None."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)
