"""Reads text that users give: UTF-8, or a sentence that says where it is not.

text_files.read("classes.txt")
"""

from dc_tf.errors import ConfigError


def read(path: str) -> str:
    """The text of a local file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8 text.
    """
    try:
        with open(path, "rb") as file:
            return decode(file.read(), path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot read {path}: {reason}; give a file that exists and that this user may read."
        ) from error


def decode(data: bytes, source: str) -> str:
    """UTF-8 bytes as text, without a byte-order mark.

    Args:
        data: content of a file.
        source: names it in messages, such as its path.

    Raises:
        ConfigError: not UTF-8; names the line and the byte.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{source} is not UTF-8 text: line {line} has the byte 0x{data[error.start]:02X}; save "
            "it as UTF-8."
        ) from error
