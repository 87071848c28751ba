"""Tasks of the wheel that train a generator and draw synthetic crystals from it."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.periodic import wrap
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError
from matmill.generate.protocol import (
    ASSETS,
    ConditionalGenerator,
    GenerationRequest,
    load_generator,
)
from matmill.generate.state import N_ELEMENTS
from matmill.randomness import child, child_seed
from matmill.steer.flywheel.settings import GeneratorChoice

N_NEAR, STRAIN, RATTLE_A = 5, 0.03, 0.05  # of plain augmentation


@dataclass(frozen=True, eq=False, kw_only=True)
class MakeInput:
    """One generator, and the values that it is asked for.

    Attributes:
        key: Content hash of everything that the trained generator depends on.
        choice: Which generator.
        table: Crystals with the labels that it learns.
        column: The property.
        values: What each synthetic crystal is asked for, ``(n,)``.
        seed: Of training and sampling.
    """

    key: str
    choice: GeneratorChoice
    table: LabelledCrystals
    column: str
    values: Float[Tensor, " n"]
    seed: int


@dataclass(frozen=True)
class Make:
    """Trains a generator, kept under its key, and samples it.

    Attributes:
        folder: Where generators are kept.
    """

    folder: Path

    def __call__(self, given: MakeInput) -> dict[str, Any]:
        """Return the crystals, in the order of the values, and what they cost."""
        torch.set_num_threads(1)
        started = time.process_time()
        if given.choice.family == "augment":
            batch = augmented(given.table, given.column, given.values, child(given.seed, "augment"))
            seconds = round(time.process_time() - started, 3)
            plain = to_plain(batch)
            return {"crystals": plain, "generator": "", "train_cpu_s": 0.0, "sample_cpu_s": seconds}
        generator, name = self._trained(given)
        trained = time.process_time()
        rng = child(given.seed, "synthetic crystals")
        request = GenerationRequest(n=len(given.values), guidance=given.choice.guidance)
        batch = generator.sample_conditions({name: given.values}, rng, request)
        return {
            "crystals": to_plain(batch),
            "generator": generator.hash,
            "train_cpu_s": round(trained - started, 3),
            "sample_cpu_s": round(time.process_time() - trained, 3),
        }

    def _trained(self, given: MakeInput) -> tuple[ConditionalGenerator, str]:
        """Return the generator and the name of the property in its requests."""
        folder = self.folder / "generators" / given.key[:24]
        make = {"concdvae": self._cdvae, "flow-adapter": self._adapter}[given.choice.family]
        return make(given, folder)

    def _cdvae(self, given: MakeInput, folder: Path) -> tuple[ConditionalGenerator, str]:
        from matmill.generate.cdvae.generator import CdvaeGenerator
        from matmill.generate.cdvae.settings import CdvaeSettings
        from matmill.generate.cdvae.train import train_cdvae

        path = folder.with_suffix(".safetensors")
        if not path.exists():
            start = given.choice.start
            generator = train_cdvae(
                given.table,
                [given.column],
                settings=CdvaeSettings.model_validate(given.choice.settings),
                folder=folder,
                seed=child_seed(given.seed, "generator"),
                start=None if start is None else CdvaeGenerator.load(weights_file(start)),
            )
            generator.save(path)
            shutil.rmtree(folder, ignore_errors=True)
        generator = CdvaeGenerator.load(path)
        return generator, given.column

    def _adapter(self, given: MakeInput, folder: Path) -> tuple[ConditionalGenerator, str]:
        from matmill.generate.finetune import FinetuneSettings, finetune
        from matmill.generate.flow import FlowGenerator

        name = "flywheel_target"
        path = folder / f"{name}.safetensors"
        settings, base = dict(given.choice.settings), given.choice.start
        if base is None:
            base = str(small_flow(given, settings.pop("base"), folder))
        if not path.exists():
            flow = load_generator(base)
            if not isinstance(flow, FlowGenerator):
                raise DataError(f"'{base}' is no flow, and adapters extend flows.")
            recipe = FinetuneSettings.model_validate(settings)
            # By steps alone: what a busy machine gets done in a time is another generator.
            by_steps = recipe.fit.model_copy(update={"max_seconds": None})
            finetune(
                flow,
                given.table,
                name,
                column=given.column,
                unit="",
                settings=recipe.model_copy(update={"fit": by_steps}),
                folder=folder,
                seed=child_seed(given.seed, "generator"),
            )
        generator = load_generator(base, adapters=(path,))
        assert isinstance(generator, ConditionalGenerator)
        return generator, name


def small_flow(given: MakeInput, settings: dict[str, Any], folder: Path) -> Path:
    """Return a flow that has learnt the crystals of the table and nothing else, labels not either.

    Args:
        given: The table, and the seed.
        settings: As of `GeneratorSettings`.
        folder: Where it is kept, in ``base``.
    """
    from matmill.generate.labelled import placeable
    from matmill.generate.train import GeneratorSettings, train

    path = folder / "base" / "generator.safetensors"
    if not path.exists():
        recipe = GeneratorSettings.model_validate(settings)
        limits = {"elements": list(range(1, N_ELEMENTS + 1)), "max_atoms": recipe.max_atoms}
        crystals = placeable(given.table, limits).crystals
        facts = crystals.properties
        train(
            replace(crystals, properties={"density_g_cm3": facts["density_g_cm3"]}),
            facts["spacegroup"].long(),
            settings=recipe,
            folder=path.parent,
            seed=child_seed(given.seed, "flow"),
            facts={"name": "flow"},
        )
    return path


def weights_file(start: str) -> Path:
    """Return the file of weights that training starts from: the user's, or shipped ones by name.

    Raises:
        InputError: If there is neither.
    """
    for path in (Path(start), ASSETS / f"{start}.safetensors"):
        if path.is_file():
            return path
    raise InputError(
        f"There are no weights '{start}' to start from: give a file, or the name of a shipped "
        "generator."
    )


def augmented(
    table: LabelledCrystals,
    column: str,
    values: Float[Tensor, " n"],
    rng: torch.Generator,
) -> CrystalBatch:
    """Return training crystals whose label is near each value, strained and rattled.

    One of the five rows with the nearest labels is taken, its cell strained by 3 % and its atoms
    moved by 0.05 Å (standard deviations).
    """
    labels = table.column(column).double()
    near = (labels[None, :] - values.double()[:, None]).abs().argsort(1)[:, :N_NEAR]
    pick = torch.randint(near.shape[1], (len(values),), generator=rng)
    batch = table.crystals.select(near[torch.arange(len(values)), pick])
    bend = torch.randn(len(batch), 3, 3, generator=rng, dtype=torch.float64) * STRAIN
    eye = torch.eye(3, dtype=torch.float64)
    lattice = batch.lattice.double() @ (eye + 0.5 * (bend + bend.mT))
    step = torch.randn(len(batch.frac_coords), 3, generator=rng, dtype=torch.float64) * RATTLE_A
    inverse = torch.linalg.inv(lattice)[batch.crystal_index]
    return CrystalBatch(
        lattice=lattice,
        frac_coords=wrap(batch.frac_coords.double() + torch.einsum("ai,aij->aj", step, inverse)),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )


def to_plain(batch: CrystalBatch) -> dict[str, Any]:
    """Return a batch as JSON values; numbers keep all their digits."""
    return {
        "n_atoms": batch.n_atoms.tolist(),
        "lattice": batch.lattice.double().reshape(len(batch), 9).tolist(),
        "frac_coords": batch.frac_coords.double().flatten().tolist(),
        "atomic_numbers": batch.atomic_numbers.tolist(),
    }


def from_plain(values: dict[str, Any]) -> CrystalBatch:
    """Return the batch that `to_plain` was given."""
    n_atoms = torch.tensor(values["n_atoms"], dtype=torch.int64)
    return CrystalBatch(
        lattice=torch.tensor(values["lattice"], dtype=torch.float64).reshape(-1, 3, 3),
        frac_coords=torch.tensor(values["frac_coords"], dtype=torch.float64).reshape(-1, 3),
        atomic_numbers=torch.tensor(values["atomic_numbers"], dtype=torch.int64),
        n_atoms=n_atoms,
    )
