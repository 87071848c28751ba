"""Settings: TOML in, checked and frozen objects out, every mistake named at once."""

import json
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

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
    return check_settings(read_toml(path), kind, source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file without checking its keys.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read settings {path}: {error.strerror}.") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from error


def check_settings(values: Mapping[str, Any], kind: type[S], *, source: str) -> S:
    """Turn plain values into settings.

    Args:
        values: As TOML gives them.
        kind: The settings to make.
        source: Where they are from, for messages.

    Raises:
        InputError: With one line per problem, each naming the key and the reason; an unknown key
            comes with those that are known.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        lines = [_problem(dict(e), kind) for e in error.errors()]
        if len(lines) == 1:
            raise InputError(f"{source}: {lines[0]}") from error
        listing = "\n".join(f"  {line}" for line in lines)
        raise InputError(f"{source} has {len(lines)} problems:\n{listing}") from error


def write_settings(path: Path, settings: Settings) -> None:
    """Write settings with all defaults filled in, as TOML that `read_settings` reads."""
    values = settings.model_dump(mode="json", exclude_none=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_toml_lines(values, ())) + "\n", encoding="utf-8")


def _problem(error: dict[str, Any], kind: type[BaseModel]) -> str:
    place = tuple(str(part) for part in error["loc"])
    key = ".".join(place) or "settings"
    reason = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] != "extra_forbidden":
        return f"{key}: {reason}"
    owner: Any = kind
    for part in place[:-1]:
        field = owner.model_fields.get(part) if hasattr(owner, "model_fields") else None
        owner = field.annotation if field else None
    known = sorted(getattr(owner, "model_fields", {}))
    close = get_close_matches(place[-1], known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"no key called '{key}'.{hint} Known: {', '.join(known)}."


def _toml_lines(values: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            inner = _toml_lines(value, (*place, key))
            lines += ["", f"[{'.'.join((*place, key))}]", *inner]
    return lines


def _toml(value: Any) -> str:  # noqa: ANN401 - any plain value
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # A JSON string, boolean or number is a TOML one, but for the names of the infinities.
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("Infinity", "inf").replace("NaN", "nan") if type(value) is float else text
