"""What reaches a scorecard: time limits of the matcher, frameworks, VSUN and kernel distances."""

import numpy as np
import pytest
import torch
from crystals_for_tests import prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.facts import density
from matmill.verify import presets
from matmill.verify.continuous import stability_scores, vsun_scores
from matmill.verify.distributions import mmd
from matmill.verify.evaluation import Against, evaluate
from matmill.verify.novelty import KnownIndex
from matmill.verify.patience import TookTooLongError
from matmill.verify.samples import as_samples
from matmill.verify.scorecard import sameness
from matmill.verify.scorecard.number import mean_of, share_of
from matmill.verify.scorecard.subject import Subject

pytestmark = pytest.mark.filterwarnings("ignore")
INDEX = KnownIndex.load(structures=[])


def hangs_on(monkeypatch, formula):
    """Let the matcher take forever on crystals of a formula."""
    matcher = sameness.Matcher
    same = matcher.same

    def slow(self, i, *others, **options):
        if self.formulas[i] == formula:
            raise TookTooLongError
        return same(self, i, *others, **options)

    def too_slow(*_):
        raise TookTooLongError

    monkeypatch.setattr(matcher, "same", slow)
    monkeypatch.setattr(sameness, "first_of_each", too_slow)


def test_a_matcher_that_takes_too_long_reaches_the_scorecard(monkeypatch):
    batch = concatenate([prototypes().select([i]).with_ids([name]) for i, name in NAMES])
    hangs_on(monkeypatch, "Cu")
    card = evaluate(batch, Against(index=INDEX))
    status = {row["name"]: row["status"] for row in card.rows}
    assert status == {"first": "ok", "second": "matcher_timeout", "salt": "ok"}
    assert card.statuses == {"ok": 2, "matcher_timeout": 1}
    late = next(row for row in card.rows if row["name"] == "second")
    assert "longer than" in late["reason"]
    assert not late["is_unique"]
    assert not late["is_novel"]
    assert card.numbers["unique"].numerator == 2
    assert card.numbers["unique"].denominator == 3


NAMES = ((3, "first"), (3, "second"), (0, "salt"))


def test_relaxed_crystals_and_pairs_are_timed_as_well(monkeypatch):
    batch = concatenate([prototypes().select([i]).with_ids([name]) for i, name in NAMES])
    hangs_on(monkeypatch, "Cu")
    pairs = evaluate(batch, Against(index=INDEX), protocol="matbench-genmetrics")
    assert pairs.statuses["matcher_timeout"] >= 1
    relaxed = evaluate(batch, Against(index=INDEX), protocol="mattergen", n_relax=3)
    status = {row["name"]: row["status"] for row in relaxed.rows}
    assert status["second"] == "matcher_timeout"
    assert status["salt"] == "ok"


def lanthanide(z):
    """Return a rock-salt nitride that no index holds, with any metal."""
    fcc = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    other = [(x + 0.5, y, z) for x, y, z in fcc]
    return CrystalBatch.from_lists([5.2 * np.eye(3)], [fcc + other], [[z] * 4 + [36] * 4])


def test_a_swap_of_lanthanides_is_no_new_framework():
    training = lanthanide(59)  # PrKr, which nothing known is
    batch = concatenate([lanthanide(z) for z in (59, 62, 21)])
    card = evaluate(batch, Against(index=INDEX, reference=training))
    assert [row["is_train_novel"] for row in card.rows] == [False, True, True]
    assert [row["is_lanthanide_swap"] for row in card.rows] == [False, True, False]
    assert [row["is_framework_novel"] for row in card.rows] == [False, False, True]
    assert card.numbers["framework_novel"].numerator == 1
    assert "framework_novel" not in evaluate(batch, Against(index=INDEX)).numbers


def test_vsun_is_the_mean_of_the_product():
    batch = concatenate([prototypes().select([3, 0, 5]), lanthanide(62)]).with_ids(())
    samples = as_samples(batch, n_requested=6)
    card = evaluate(samples, Against(index=INDEX, reference=prototypes()), n_relax=3)
    rows = card.rows[:3]

    def column(name):
        return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)

    stable = stability_scores(column("energy_above_hull_ev_per_atom"))
    parts = (column("is_valid"), stable, column("continuous_uniqueness"))
    expected = vsun_scores(*parts, column("continuous_novelty"))
    assert card.numbers["vsun"].value == pytest.approx(float(expected.mean()))
    assert card.numbers["vsun"].denominator == 3
    assert card.numbers["continuous_stability"].value == pytest.approx(float(stable.mean()))
    without = evaluate(samples, Against(index=INDEX), n_relax=1)
    assert "vsun" not in without.numbers
    assert any("VSUN needs --reference" in note for note in without.notes)


def test_kernel_distances_stand_beside_the_others():
    batch = prototypes()
    numbers = evaluate(batch.select([0, 1, 2, 3]), Against(index=INDEX, reference=batch)).numbers
    rest = density(batch)
    found = numbers["mmd_density"]
    assert 0.0 <= found.value < 2**0.5
    assert "width" in found.note
    far = CrystalBatch(
        lattice=batch.lattice * 3,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )
    other = evaluate(far, Against(index=INDEX, reference=batch)).numbers["mmd_density"]
    assert other.value > found.value
    assert mmd(rest, rest)[0] == pytest.approx(0.0, abs=1e-7)
    assert (
        "mmd_density"
        not in evaluate(batch, Against(index=INDEX, test=batch), protocol="cdvae").numbers
    )


def test_published_densities_are_by_older_masses():
    """Zinc oxide: 65.38 amu of zinc since 2007, 65.409 in pymatgen."""
    oxide = prototypes().select([5])
    ratio = density(oxide, masses="pymatgen") / density(oxide)
    assert float(ratio[0]) == pytest.approx((65.409 + 15.9994) / (65.38 + 15.999), abs=1e-9)
    assert presets.find("cdvae").distributions.masses == "pymatgen"
    rules = presets.find("cdvae")
    some = rules.model_copy(
        update={"distributions": rules.distributions.model_copy(update={"draws": None})}
    )
    subject = Subject(samples=as_samples(oxide), protocol=some, test=prototypes().select([3]))
    from matmill.verify.scorecard.distributions import distributions

    found = {n.key: n.value for n in distributions(subject).numbers}
    gap = density(oxide, masses="pymatgen")[0] - density(prototypes(), masses="pymatgen")[3]
    assert found["w1_density"] == pytest.approx(abs(float(gap)))


def test_shares_and_means_of_nothing():
    empty = share_of("a", "a", 0, 0, "of nothing")
    assert np.isnan(empty.value)
    assert np.isnan(empty.low)
    assert empty.shown()[0] == "–"
    none = mean_of("b", "b", np.array([np.nan, np.inf]), "finite", seed=0)
    assert np.isnan(none.value)
    assert none.denominator == 0
    some = mean_of("c", "c", np.array([1.0, np.nan, 3.0]), "finite", seed=0, unit="Å")
    assert (some.value, some.denominator) == (2.0, 2)
    assert some.low <= 2.0 <= some.high
