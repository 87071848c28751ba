"""Everything that a training of the generator needs, from a TOML file, flags, or both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, overload

from pydantic import Field

from matmill.config import Settings, check_settings, read_toml, write_settings
from matmill.errors import DataError, InputError
from matmill.generate.shards import ShardedSet
from matmill.generate.train import GeneratorSettings, labelled_crystals, scale_of, train, train_on
from matmill.progress import OnEvent, ignore
from matmill.training.fit import FitResult

RESOLVED = "recipe.toml"


class Recipe(GeneratorSettings):
    """What to train, on what, and where the result goes. Paths are relative to where it is run.

    Attributes:
        data: A table of crystals, or a folder of Parquet files, which need not fit into memory.
        split: Use only rows whose ``split`` column says this; ignored where there is none.
        start_from: Checkpoint whose weights to start from.
        out: Folder of the run; the same one resumes it.
        seed: Everything random follows from it.
    """

    data: Path
    split: str | None = "train"
    start_from: Path | None = None
    out: Path = Path("work/generator")
    seed: Annotated[int, Field(ge=0)] = 0


R = TypeVar("R", bound=Settings)


@overload
def make_recipe(file: Path | None, changes: Mapping[str, Any]) -> Recipe: ...


@overload
def make_recipe(file: Path | None, changes: Mapping[str, Any], kind: type[R]) -> R: ...


def make_recipe(
    file: Path | None, changes: Mapping[str, Any], kind: type[Settings] = Recipe
) -> Settings:
    """Return the recipe of a TOML file with some values replaced.

    Args:
        file: The TOML file; None starts from the defaults.
        changes: Values by key, ``"fit.max_seconds"`` for nested ones; None changes nothing.
        kind: Of recipe; a flow's by default.

    Raises:
        InputError: Naming each key that is unknown or has a value that cannot be used.
    """
    values = read_toml(file) if file else {}
    for key, value in changes.items():
        if value is None:
            continue
        *tables, name = key.split(".")
        place = values
        for part in tables:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InputError(f"{file}: '{part}' must be a table, [{part}].")
        place[name] = value
    if "data" not in values:
        raise InputError(f'{file or "The command"} names no data: give data = "FILE".')
    return check_settings(values, kind, source=str(file or "The options"))


def follow(recipe: Recipe, *, on_event: OnEvent = ignore) -> FitResult:
    """Train as the recipe says and write ``generator`` and the resolved recipe to its folder.

    Raises:
        InputError: If the folder holds another training, or the data does not exist.
        DataError: If there is nothing to train on.
    """
    write_settings(recipe.out / RESOLVED, recipe)
    settings = GeneratorSettings(
        **{name: getattr(recipe, name) for name in GeneratorSettings.model_fields}
    )
    folder, seed, start = recipe.out, recipe.seed, recipe.start_from
    if recipe.data.is_dir() and any(recipe.data.glob("*.parquet")):
        shards = ShardedSet.of_parquet(
            recipe.data,
            cache=recipe.out / "shards",
            max_atoms=recipe.max_atoms,
            split=recipe.split,
            scale=scale_of(start),
            n_tokens=recipe.n_tokens,
            on_event=on_event,
        )
        return train_on(
            shards,
            settings=settings,
            folder=folder,
            seed=seed,
            start_from=start,
            facts=shards.facts,
            on_event=on_event,
        )
    crystals, space_group, facts = labelled_crystals(
        recipe.data, split=recipe.split, on_event=on_event
    )
    if not len(crystals):
        raise DataError(f"{recipe.data} has no row with split '{recipe.split}'. Choose another.")
    return train(
        crystals,
        space_group,
        settings=settings,
        folder=folder,
        seed=seed,
        start_from=start,
        facts=facts,
        on_event=on_event,
    )
