"""Everything that a training of a CDVAE needs, from a TOML file, flags, or both."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from matmill.config import write_settings
from matmill.errors import DataError
from matmill.generate.cdvae.generator import CdvaeGenerator
from matmill.generate.cdvae.settings import CdvaeSettings
from matmill.generate.cdvae.train import train_cdvae
from matmill.generate.recipe import RESOLVED
from matmill.generate.train import labelled_crystals
from matmill.progress import OnEvent, ignore


class CdvaeRecipe(CdvaeSettings):
    """What to train, on what, and where the result goes. Paths are relative to where it is run.

    Attributes:
        data: A table of crystals.
        conditions: Columns that may be asked for; none trains the plain CDVAE.
        split: Use only rows whose ``split`` column says this; ignored where there is none.
        start_from: Checkpoint to start from, or ``concdvae`` for the shipped one.
        out: Folder of the run; the same one resumes it.
        seed: Everything random follows from it.
    """

    data: Path
    conditions: tuple[str, ...] = ()
    split: str | None = "train"
    start_from: Path | None = None
    out: Path = Path("work/concdvae")
    seed: Annotated[int, Field(ge=0)] = 0


def follow(recipe: CdvaeRecipe, *, on_event: OnEvent = ignore) -> CdvaeGenerator:
    """Train as the recipe says and write ``generator`` and the resolved recipe to its folder.

    Raises:
        InputError: If a column is missing or the folder holds another training.
        DataError: If there is nothing to train on, or the start is no CDVAE.
    """
    crystals, space_group, facts = labelled_crystals(
        recipe.data, split=recipe.split, on_event=on_event
    )
    if not len(crystals):
        raise DataError(f"{recipe.data} has no row with split '{recipe.split}'. Choose another.")
    write_settings(recipe.out / RESOLVED, recipe)
    start = None
    if recipe.start_from is not None:
        is_shipped = str(recipe.start_from) == "concdvae"
        start = CdvaeGenerator.load(None if is_shipped else recipe.start_from)
    settings = CdvaeSettings(**{name: getattr(recipe, name) for name in CdvaeSettings.model_fields})
    return train_cdvae(
        crystals,
        recipe.conditions,
        settings=settings,
        folder=recipe.out,
        seed=recipe.seed,
        start=start,
        space_group=space_group,
        facts={key: value for key, value in facts.items() if key != "name"},
        on_event=on_event,
    )
