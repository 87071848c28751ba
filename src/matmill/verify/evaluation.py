"""Judging a set of crystals: read, check, compare, relax, and return one `Scorecard`.

Every share keeps its numerator and denominator, every number its interval, every sample a status.
What the numbers were made with is in the card, as a protocol with an id.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import read
from matmill.errors import InputError
from matmill.progress import OnEvent, ignore
from matmill.verify import presets, protocols, schemes
from matmill.verify.backends import DEFAULT, load_potential
from matmill.verify.hull import Hull
from matmill.verify.hull_reference import read_hull
from matmill.verify.judging import Aim
from matmill.verify.novelty import KnownIndex
from matmill.verify.potentials import Potential, load_chgnet
from matmill.verify.protocols import Basis, Protocol
from matmill.verify.samples import Samples, as_samples, read_samples
from matmill.verify.scorecard import output
from matmill.verify.scorecard.card import Scorecard, count_statuses
from matmill.verify.scorecard.groups import GROUPS
from matmill.verify.scorecard.relaxed import RelaxElsewhere
from matmill.verify.scorecard.subject import Energies, Subject
from matmill.verify.scorecard.targets import steering_of
from matmill.verify.signatures import Signature, no_effect, signatures


@dataclass(frozen=True, kw_only=True)
class Against:
    """What samples are compared with.

    Attributes:
        reference: The training set.
        test: Known crystals that the generator never saw.
        index: Known crystals; the index that ships unless given.
        hull: The hull; the one that ships unless given.
        potential: CHGNet 0.3.0 unless given; its energies must compare with the hull.
        others: Further potentials for votes, each with the hull that it is compared with.
        energies: Predicts energies whose distributions are compared.
        energy_model: Name and hash of what predicts them.
        aims: What the samples were asked to be, and who says whether they are.
        unasked: Samples of the same generator that nobody asked for anything.
    """

    reference: CrystalBatch | None = None
    test: CrystalBatch | None = None
    index: KnownIndex | None = None
    hull: Hull | None = None
    potential: Potential | None = None
    others: Sequence[tuple[Potential, Hull]] = ()
    energies: Energies | None = None
    energy_model: str | None = None
    aims: tuple[Aim, ...] = ()
    unasked: CrystalBatch | None = None


def evaluate(
    samples: CrystalBatch | Samples,
    against: Against | None = None,
    *,
    protocol: str | Protocol = presets.DEFAULT,
    n_relax: int | None = 0,
    is_prediction: bool = False,
    name: str = "samples",
    relax_elsewhere: RelaxElsewhere | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> Scorecard:
    """Return the scorecard of a set of crystals.

    Args:
        samples: Crystals, or what `read_samples` read, with everything that failed.
        against: What to compare with.
        protocol: A preset by name, or switches of your own.
        n_relax: How many samples, from the first on, to relax; None relaxes all.
        is_prediction: Sample i was meant for crystal i of the test set.
        name: Of the set, for tables.
        relax_elsewhere: Relaxes in other processes, by the potential of ``against``.
        seed: Of draws and of the resamples behind the intervals.
        on_event: Told about the progress.
    """
    against = against or Against()
    rules = presets.find(protocol) if isinstance(protocol, str) else protocol
    found = as_samples(samples) if isinstance(samples, CrystalBatch) else samples
    given_hull, given_potential = against.hull, against.potential
    subject = Subject(
        samples=found,
        protocol=rules,
        reference=against.reference,
        test=against.test,
        n_relax=found.n_requested if n_relax is None else n_relax,
        is_prediction=is_prediction,
        index=against.index,
        load_hull=Hull.load if given_hull is None else lambda: given_hull,
        load_potential=load_chgnet if given_potential is None else lambda: given_potential,
        relax_elsewhere=relax_elsewhere,
        others=against.others,
        energies=against.energies,
        aims=against.aims,
        unasked=against.unasked,
        seed=seed,
        on_event=on_event,
    )
    numbers, notes = {}, list(_reading_notes(found))
    columns: dict[str, Tensor | Sequence[object]] = {}
    seconds: dict[str, float] = {}
    for title, group in GROUPS:
        begin = time.perf_counter()
        answer = group(subject)
        if answer.numbers:
            numbers[title] = answer.numbers
        columns.update(answer.columns)
        notes += answer.notes
        seconds[title] = time.perf_counter() - begin
    begin = time.perf_counter()
    signs, why_not = _signatures(subject)
    seconds["Failure signatures"] = time.perf_counter() - begin
    n_relaxed = int(subject.relaxation.converged.sum()) if subject.n_relax else 0
    return Scorecard(
        name=name,
        basis=_basis(subject, against),
        counts={
            "n_requested": found.n_requested,
            "n_parsed": found.n_parsed,
            "n_valid": subject.n_valid,
            "n_relaxed": n_relaxed,
        },
        groups=numbers,
        statuses=count_statuses(subject.status, found.n_requested),
        signatures=signs,
        notes=[*notes, *why_not],
        rows=_rows(subject, columns),
        seconds=seconds,
        seed=seed,
    )


def evaluate_files(
    files: Sequence[Path],
    *,
    reference: Path | None = None,
    test: Path | None = None,
    hulls: Sequence[Hull] = (),
    potentials: Sequence[str] = (DEFAULT,),
    energies: tuple[str, Energies] | None = None,
    aims: Sequence[Aim] = (),
    unasked: Path | None = None,
    protocol: str = presets.DEFAULT,
    n_relax: int | None = 0,
    n_requested: int | None = None,
    is_prediction: bool = False,
    out: Path | None = None,
    relax_elsewhere: RelaxElsewhere | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> Scorecard:
    """Read samples of any generator, return their scorecard, and write it if asked.

    Args:
        files: Structure files, folders and zips.
        reference: The training set.
        test: Known crystals that the generator never saw.
        hulls: What the potentials are compared with, see `schemes.choose`; those that ship
            unless given.
        potentials: Names of potentials: the first decides, all of them vote.
        energies: Name and function of an energy predictor.
        aims: What the samples were asked to be, and who says whether they are.
        unasked: Samples of the same generator that nobody asked for anything.
        protocol: Name of a preset.
        n_relax: How many samples to relax; None relaxes all.
        n_requested: How many samples were asked of the generator.
        is_prediction: Sample i was meant for crystal i of the test set.
        out: A folder for everything, or one file: ``.json``, ``.parquet`` or ``.html``.
        relax_elsewhere: Relaxes in other processes.
        seed: Of draws and resamples.
        on_event: Told about the progress.

    Raises:
        DataError: If a file is missing or holds nothing.
        InputError: If the options do not fit together, or the protocol is not offered.
    """
    rules = presets.find(protocol)  # a wrong name costs no reading
    if is_prediction and test is None:
        raise InputError("--csp needs --test, the crystals that were to be predicted.")
    if unasked is not None and not aims:
        raise InputError("--unasked needs --target: what the others were asked for.")
    output.check(out)
    pairs = _pairs(potentials, hulls) if n_relax != 0 else []
    samples = read_samples(files, n_requested=n_requested, on_event=on_event)
    against = Against(
        reference=_known(reference),
        test=_known(test),
        hull=pairs[0][1] if pairs else None,
        potential=pairs[0][0] if pairs else None,
        others=pairs[1:],
        energies=None if energies is None else energies[1],
        energy_model=None if energies is None else energies[0],
        aims=tuple(aims),
        unasked=None if unasked is None else read_samples([unasked]).crystals,
    )
    card = evaluate(
        samples,
        against,
        protocol=rules,
        n_relax=n_relax,
        is_prediction=is_prediction,
        name=files[0].name.split(".")[0] or str(files[0]),
        relax_elsewhere=relax_elsewhere,
        seed=seed,
        on_event=on_event,
    )
    if out is not None:
        output.write(card, out, samples=samples, against=(against.reference, against.test))
    return card


def read_hulls(
    files: Sequence[Path],
    *,
    energy: str | None = None,
    scheme: str | None = None,
    elements: Path | None = None,
) -> list[Hull]:
    """Return the hulls of some files; see `hull_reference.read_hull` for the options."""
    return [read_hull(file, energy=energy, scheme=scheme, elements=elements) for file in files]


def _pairs(names: Sequence[str], hulls: Sequence[Hull]) -> list[tuple[Potential, Hull]]:
    """Return the potentials of some names, each with its hull.

    Raises:
        InputError: If a name comes twice, or no hull compares with a potential.
    """
    if not names or len(set(names)) != len(names):
        raise InputError("--potentials needs one name or more, each once.")
    found = [load_potential(name) for name in names]
    votes = len(found) > 1
    return [(p, schemes.choose(p, hulls, own_first=votes)) for p in found]


def content_hash(batch: CrystalBatch) -> str:
    """Return a hash of the numbers of a set of crystals, whatever file they are from."""
    digest = hashlib.sha256()
    for values in (batch.lattice, batch.frac_coords, batch.atomic_numbers, batch.n_atoms):
        digest.update(values.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _known(path: Path | None) -> CrystalBatch | None:
    return None if path is None else read(path).crystals.to(dtype=torch.float64)


def _basis(subject: Subject, against: Against) -> Basis:
    pairs: list[tuple[Potential, Hull]] = []
    if subject.n_relax:
        pairs = [(subject.load_potential(), subject.hull), *subject.others]
    index = subject.known_index

    def hashed(batch: CrystalBatch | None) -> str | None:
        return None if batch is None else content_hash(batch)

    return Basis(
        protocol=subject.protocol,
        reference=hashed(subject.reference),
        test=hashed(subject.test),
        known_index=f"{index.name} {index.hash}",
        hull="; ".join(f"{schemes.hull_name(h, p)} {h.hash}" for p, h in pairs) or None,
        potential="; ".join(f"{p.name} {p.hash}" for p, _ in pairs) or None,
        energy_model=against.energy_model,
        targets=tuple(
            f"{aim.text}: {aim.steering.name} / {aim.judge.name}" for aim in against.aims
        ),
        versions=protocols.versions(),
    )


def _signatures(subject: Subject) -> tuple[list[Signature], list[str]]:
    """Return the ways to break that can be looked for, or a note why none can."""
    steering = steering_of(subject)
    known = subject.test if subject.test is not None else subject.reference
    training = subject.reference if subject.test is not None else None
    batch = subject.batch
    if known is None:
        note = "most failure signatures need --reference or --test"
        return [no_effect([run]) for run in steering], [note]
    if min(len(batch), len(known)) < 2:
        return [], ["failure signatures need two crystals on either side"]
    first = None
    if subject.protocol.matching.judged_on == "generated":
        first = [subject.same.first.get(i, i) for i in range(len(batch))]
    try:
        return (
            signatures(batch, known, training, first=first, steering=steering, seed=subject.seed),
            [],
        )
    except (ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        return [], [f"failure signatures could not be tested: {error}"[:200]]


def _reading_notes(samples: Samples) -> list[str]:
    n = len(samples.ignored)
    if not n:
        return []
    shown = ", ".join(Path(name).name for name in samples.ignored[:3])
    return [f"{n} file(s) of unknown kind count as nothing: {shown}{' …' if n > 3 else ''}"]


def _rows(subject: Subject, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one dictionary a sample: where it is from, its status, and what was found of it."""
    values = {
        name: column.tolist() if isinstance(column, Tensor) else list(column)
        for name, column in columns.items()
    }
    crystal_of = {entry: i for i, entry in enumerate(subject.samples.place.tolist())}
    formulas = subject.batch.formula
    rows: list[dict[str, Any]] = []
    for e, entry in enumerate(subject.samples.entries):
        i = crystal_of.get(e)
        row: dict[str, Any] = {
            "position": e + 1,
            "name": entry.name,
            "file": entry.file,
            "row": entry.row,
            "status": subject.status[e].value,
            "reason": subject.reason[e],
            "formula": None if i is None else formulas[i],
        }
        row |= {name: None if i is None else column[i] for name, column in values.items()}
        rows.append(row)
    return rows
