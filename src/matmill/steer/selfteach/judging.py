"""One round of a self-teaching generator, judged: what is new, stable, and merely replayed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import element_counts
from matmill.crystals.matching import Matcher, MatchStatus
from matmill.verify.drift import LANTHANIDES, has_any
from matmill.verify.frameworks import merge_lanthanides
from matmill.verify.novelty import KnownIndex, find_known, first_of_each
from matmill.verify.spread import effective_number
from matmill.verify.validity import Limits, check


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """What is true of each crystal of a round, in the order that they were drawn.

    Attributes:
        is_valid: Passes the checks of geometry, ``(n,)``.
        is_first: Valid, relaxed, and no earlier crystal of the round is the same.
        is_new: No known crystal, and none that the first generator was trained on, is the same.
        is_train_new: New, and none that this generator was ever taught is the same: what is new
            but not this is a replay of its own lessons.
        is_framework_new: Train-new, also when all lanthanides count as one element.
        above_hull: Relaxed, eV/atom; NaN where there is none.
        relaxed: The relaxed crystals, as drawn where relaxation failed.
    """

    is_valid: Bool[Tensor, " n"]
    is_first: Bool[Tensor, " n"]
    is_new: Bool[Tensor, " n"]
    is_train_new: Bool[Tensor, " n"]
    is_framework_new: Bool[Tensor, " n"]
    above_hull: Float[Tensor, " n"]
    relaxed: CrystalBatch

    def __len__(self) -> int:
        return len(self.is_valid)

    def counts(self, threshold: float) -> dict[str, float]:
        """Return how many crystals, of all that were drawn, are what.

        ``msun`` is metastable (at most ``threshold`` above the hull), unique and new, ``sun`` at
        most 0 above it; ``*_train`` leave out replays, ``*_framework`` swaps of lanthanides too.
        """
        low, stable = self.above_hull <= threshold, self.above_hull <= 0.0
        kinds = {"": self.is_new, "_train": self.is_train_new, "_framework": self.is_framework_new}
        found: dict[str, float] = {
            "drawn": len(self),
            "valid": int(self.is_valid.sum()),
            "relaxed": int(torch.isfinite(self.above_hull).sum()),
            "unique": int(self.is_first.sum()),
            "new": int((self.is_first & self.is_new).sum()),
            "metastable": int(low.sum()),
            "stable": int(stable.sum()),
        }
        for name, new in kinds.items():
            found[f"msun{name}"] = int((self.is_first & new & low).sum())
            found[f"sun{name}"] = int((self.is_first & new & stable).sum())
        found["replayed"] = found["msun"] - found["msun_train"]
        good = self.relaxed.select(self.is_valid)
        found["with a lanthanide"] = int(has_any(good, LANTHANIDES).sum())
        known = self.above_hull[torch.isfinite(self.above_hull)]
        found["median_above_hull_ev_per_atom"] = float(known.median()) if len(known) else torch.nan
        found["effective_elements"] = element_number(good)
        return found


def element_number(batch: CrystalBatch) -> float:
    """Return how many elements the crystals hold, each counted by its share of crystals."""
    present = torch.nonzero(element_counts(batch))[:, 1].tolist()
    return effective_number(present) if present else 0.0


def judge(
    drawn: CrystalBatch,
    settled: CrystalBatch,
    above_hull: Float[Tensor, " n"],
    *,
    trained_on: CrystalBatch,
    taught: Sequence[CrystalBatch],
    known: KnownIndex,
) -> Judgement:
    """Judge the crystals of a round.

    Args:
        drawn: As the generator made them.
        settled: The same after relaxation.
        above_hull: Of the relaxed ones, NaN where relaxation failed.
        trained_on: What the first generator was trained on.
        taught: What each round has added for this generator.
        known: Known crystals.
    """
    n = len(drawn)
    valid = torch.tensor([fate is None for fate in check(drawn, Limits())], dtype=torch.bool)
    usable = torch.nonzero(valid & torch.isfinite(above_hull)).flatten()
    good = settled.select(usable)
    first = first_of_each(good)
    named = find_known(good, known)
    lessons = concatenate(list(taught)) if any(len(b) for b in taught) else CrystalBatch.empty()
    in_training = _has_match(good, trained_on)
    in_lessons = _has_match(good, lessons)
    frameworks = _has_match(
        merge_lanthanides(good), merge_lanthanides(concatenate([trained_on, lessons]))
    )
    flags = {k: torch.zeros(n, dtype=torch.bool) for k in ("first", "new", "train", "framework")}
    for place, row in enumerate(usable.tolist()):
        is_new = named[place] is None and not in_training[place]
        flags["first"][row] = first[place] == place
        flags["new"][row] = is_new
        flags["train"][row] = is_new and not in_lessons[place]
        flags["framework"][row] = is_new and not in_lessons[place] and not frameworks[place]
    return Judgement(
        is_valid=valid,
        is_first=flags["first"],
        is_new=flags["new"],
        is_train_new=flags["train"],
        is_framework_new=flags["framework"],
        above_hull=above_hull,
        relaxed=settled,
    )


def _has_match(batch: CrystalBatch, reference: CrystalBatch) -> list[bool]:
    """Return whether any reference is the same crystal."""
    if not len(reference):
        return [False] * len(batch)
    mine, theirs = Matcher(batch), Matcher(reference)
    pairs = [(i, j) for i, formula in enumerate(mine.formulas) for j in theirs.candidates(formula)]
    found = [False] * len(batch)
    for (i, _), status in zip(pairs, mine.statuses(pairs, other=theirs), strict=True):
        found[i] |= bool(status == MatchStatus.SAME)
    return found


def lesson(
    judged: Judgement,
    arm: str,
    *,
    threshold: float,
    most_of_a_formula: int,
    n: int | None,
    rng: torch.Generator,
) -> Tensor:
    """Return which crystals of a round an arm learns from, row numbers in order.

    Args:
        judged: The round.
        arm: ``verified`` takes metastable, unique crystals that are new to everything the
            generator was ever trained on, few of each formula; ``deduplicated`` unique valid
            ones; ``raw`` any.
        threshold: Of ``verified``, eV/atom above the hull.
        most_of_a_formula: Of ``verified``.
        n: At most so many, by chance; None for all.
        rng: Draws them.
    """
    if arm == "verified":
        chosen = judged.is_first & judged.is_train_new & (judged.above_hull <= threshold)
    elif arm == "deduplicated":
        chosen = judged.is_first & judged.is_valid
    else:
        chosen = judged.is_valid
    rows = torch.nonzero(chosen).flatten()
    rows = rows[torch.randperm(len(rows), generator=rng)]
    if arm == "verified":
        seen: dict[str, int] = {}
        kept = []
        formulas = judged.relaxed.select(rows).formula
        for row, formula in zip(rows.tolist(), formulas, strict=True):
            seen[formula] = seen.get(formula, 0) + 1
            if seen[formula] <= most_of_a_formula:
                kept.append(row)
        rows = torch.tensor(kept, dtype=torch.int64)
    return rows[:n].sort().values
