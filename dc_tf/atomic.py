"""Files that are whole or absent after a kill or a power cut.

write_whole(path, lambda file: file.write(data))
"""

import os


def write_whole(path, write):
    """Lets `write` fill a file: aside, to disk, then renamed over what was at `path`."""
    aside = f"{path}.tmp"
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.remove(aside)  # on a full disk it would be in the way of the next
        raise
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
