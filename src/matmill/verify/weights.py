"""A gate for weights files of other people's packages: numbers pass, programs do not.

Many packages unpickle their weights, which runs whatever a file tells it to. A file that the
restricted reader of torch accepts first holds tensors and plain values only, and then the
package's own reader finds nothing to run either.
"""

import io
import pickle
from pathlib import Path

from matmill.errors import DataError


def check_weights(path: Path) -> bytes:
    """Return the content of a weights file, once it is known to hold numbers only.

    Raises:
        DataError: If the file cannot be read, or wants to run something.
    """
    import numpy as np
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        from numpy._core.multiarray import _reconstruct  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:  # numpy 1
        from numpy.core.multiarray import _reconstruct  # pyright: ignore

    # Arrays of numbers, as numpy pickles them; the name is that of numpy 1 in older files.
    dtypes = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")]
    arrays = [np.ndarray, np.dtype, *dtypes, (_reconstruct, "numpy.core.multiarray._reconstruct")]
    try:
        with torch.serialization.safe_globals([*arrays, _reconstruct]):
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        wanted = _programs(content)
        if wanted:
            raise DataError(
                f"{path} holds more than numbers ({wanted}): reading it could run a program. "
                "If you trust it, write a function that builds the ASE calculator and name it: "
                "--potential module:function."
            ) from error
        raise DataError(f"{path} is no weights file that torch can read.") from error
    return content


def _programs(content: bytes) -> str:
    """Return what a file would call, or an empty text if it is no pickle of torch at all."""
    import torch

    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    except Exception:  # whatever broken bytes make it say
        return ""
    return ", ".join(name for name in found if not name.startswith("numpy"))[:120]
