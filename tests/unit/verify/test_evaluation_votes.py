"""Scorecards with several potentials, and with hulls that the user brings."""

import json
from dataclasses import replace

import pytest
from crystals_for_tests import prototypes
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.crystals.files import write
from matmill.errors import InputError
from matmill.verify.evaluation import Against, evaluate
from matmill.verify.hull import Hull
from matmill.verify.novelty import KnownIndex
from matmill.verify.potentials import load_chgnet

pytestmark = pytest.mark.filterwarnings("ignore")
INDEX = KnownIndex.load(structures=[])


class Shifted:
    """CHGNet with every energy raised by 0.2 eV/atom, under another name."""

    name, hash, scheme = "shifted", "1", "mp2020-corrected"

    def compute(self, batch, *, forces=True):
        output = load_chgnet().compute(batch, forces=forces)
        return replace(output, energy_ev=output.energy_ev + 0.2 * batch.n_atoms)


def test_several_potentials_vote_each_against_its_own_hull():
    hull = Hull.load()
    own = Hull(hull.entries, name="own", hash="2", potential="shifted")
    batch = prototypes().select([0, 3, 4])
    against = Against(index=INDEX, others=[(Shifted(), own)])
    card = evaluate(batch, against, n_relax=3)
    for row in card.rows:
        first, second = (
            row[f"energy_above_hull_ev_per_atom_{name}"] for name in ("chgnet-0.3.0", "shifted")
        )
        assert first == row["energy_above_hull_ev_per_atom"]
        assert second == pytest.approx(first + 0.2, abs=1e-4)
        assert row["energy_above_hull_std_ev_per_atom"] == pytest.approx(0.2 / 2**0.5, abs=1e-4)
        assert row["n_potentials"] == 2
        assert row["n_votes"] == (first <= 0.1) + (second <= 0.1)
        assert row["hull_name"] == hull.name
        assert row["potential_name"] == "chgnet-0.3.0"
        assert row["energy_above_joint_hull_ev_per_atom"] >= max(first, 0.0) - 1e-9
        assert row["n_competitors_all"] >= row["n_competitors"]
    numbers = card.numbers
    assert numbers["stable_0.1_chgnet-0.3.0"].numerator == 3
    assert numbers["robust_0.1"].numerator == 0
    assert numbers["robust_0.1"].denominator == 3
    assert numbers["thin_hull"].denominator == 3
    assert "shifted 1" in card.basis.potential
    assert "own 2" in card.basis.hull
    assert card.basis.id != evaluate(batch, Against(index=INDEX), n_relax=3).basis.id
    with pytest.raises(InputError, match="do not compare"):
        evaluate(batch, Against(index=INDEX, potential=Shifted()), n_relax=1)


def test_potentials_and_hulls_by_name(tmp_path):
    write(prototypes().select([3]), tmp_path / "one.extxyz")
    arguments = ["evaluate", str(tmp_path / "one.extxyz"), "--relax", "1", "--quiet"]
    lone = CliRunner().invoke(app, [*arguments, "--potentials", "chgnet,chgnet"])
    assert "each once" in str(lone.output) + str(lone.exception)
    table = tmp_path / "dft.csv"
    table.write_text("formula,energy_per_atom_ev\nCu,-4.1\n", encoding="utf-8")
    mixed = CliRunner().invoke(
        app, [*arguments, "--hull", str(table), "--hull-scheme", "mp-raw", "--json"]
    )
    assert "cannot be converted" in str(mixed.output) + str(mixed.exception)
    options = ["--hull", str(table), "--hull-scheme", "mp2020-corrected", "--json"]
    answer = CliRunner().invoke(app, [*arguments, *options])
    assert answer.exit_code == 0, answer.output
    card = json.loads(answer.output)
    assert card["basis"]["hull"].startswith("dft.csv/energy_per_atom_ev/mp2020-corrected ")
