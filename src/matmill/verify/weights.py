"""A gate for weights files of other people's packages: numbers pass, programs do not.

Many packages unpickle their weights, which calls whatever a file names. Here the names are read off
first, without calling any: a file that names nothing beyond what torch itself takes for harmless,
and arrays of numpy, holds numbers only, and its package may read it.
"""

import io
from pathlib import Path

from matmill.errors import DataError

_HARMLESS = frozenset(
    {
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)


def check_weights(path: Path) -> bytes:
    """Return the content of a weights file, once it is known to hold numbers only.

    Raises:
        DataError: If the file cannot be read, or names anything that could be run.
    """
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    except Exception as error:  # whatever broken bytes make it say
        raise DataError(f"{path} is no weights file that torch can read.") from error
    programs = [name for name in named if name not in _HARMLESS]
    if programs:
        raise DataError(
            f"{path} holds more than numbers ({', '.join(programs)[:120]}): reading it could run a "
            "program. If you trust it, write a function that builds the calculator and name it: "
            "--potential module:function."
        )
    return content
