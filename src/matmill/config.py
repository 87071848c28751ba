"""Settings: TOML in, checked and frozen objects out, every mistake named at once."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from matmill.errors import InputError


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Settings)


def read_settings(path: Path, kind: type[S]) -> S:
    """Read and check a settings file.

    Raises:
        InputError: With one line per problem, each naming the key and the reason.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read settings {path}: {error.strerror}.") from error
    try:
        return kind.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise InputError(f"{path} has {len(lines)} problem(s):\n" + "\n".join(lines)) from error
