"""Structures of a formula, ranked by a potential whose energies are known."""

import json
from dataclasses import replace

import pytest
import torch

from matmill.crystals.files import read
from matmill.errors import InputError
from matmill.generate.protocol import GenerationRequest
from matmill.generate.structure_prediction import (
    ABOVE,
    ENERGY,
    TIMES,
    UNITS,
    predict_structures,
    rows,
    write,
)
from matmill.verify.novelty import first_of_each
from matmill.verify.potentials import PotentialOutput


class Spring:
    """Energy per atom: squared distance of the volume per atom from 20 Å³."""

    name, hash = "spring-1", "spring"

    def compute(self, batch, *, forces=True):
        assert not forces
        energy = batch.n_atoms * ((batch.volume / batch.n_atoms - 20.0) / 10.0) ** 2
        return PotentialOutput(energy_ev=energy)


class Blind(Spring):
    def compute(self, batch, *, forces=True):
        energy = super().compute(batch, forces=forces).energy_ev
        energy[::2] = torch.nan
        return PotentialOutput(energy_ev=energy)


def predict(generator, potential=None, n=14, **wishes):
    request = GenerationRequest(n=n, n_steps=3, formula={"Ti": 1, "O": 2}, **wishes)
    return predict_structures(generator, request, potential or Spring(), seed=1), request


def test_structures_are_ranked_by_energy_per_atom(generator):
    ranked, _ = predict(generator)
    crystals = ranked.crystals
    energy = ((crystals.volume / crystals.n_atoms - 20.0) / 10.0) ** 2
    torch.testing.assert_close(crystals.properties[ENERGY], energy)
    assert torch.equal(energy.sort().values, energy)
    torch.testing.assert_close(crystals.properties[ABOVE], energy - energy[0])
    assert set(crystals.formula) == {"TiO2"}
    assert torch.equal(crystals.properties[UNITS].long(), crystals.n_atoms // 3)
    assert crystals.properties[TIMES].sum() == ranked.n_samples == 14


def test_all_sizes_that_fit_are_sampled(generator):
    ranked, _ = predict(generator, n=40, n_atoms=(3, 9))
    assert set(ranked.units_sampled) == {1, 2, 3}
    assert sum(ranked.units_sampled.values()) == 40


def test_equal_samples_are_merged_into_the_one_of_lowest_energy(generator, crystals):
    class Repeats:
        """Delivers rutile three times, strained, and something else once."""

        name, hash, card = "repeats", "r", generator.card

        def check(self, request):  # noqa: ARG002
            return []

        def sample(self, request, rng, on_batch=None):  # noqa: ARG002
            rutile = crystals.select([5, 5, 5])
            cell = rutile.lattice * torch.tensor([1.05, 1.0, 1.1])[:, None, None]
            return replace(rutile, lattice=cell).with_ids(["a", "b", "c"])

    made = predict_structures(
        Repeats(),
        GenerationRequest(n=3, formula={"Ti": 1, "O": 2}),
        Spring(),
        seed=0,
    )
    assert len(made.crystals) == 1
    assert made.crystals.properties[TIMES].tolist() == [3.0]
    per_atom = crystals.volume[5] / 6 * torch.tensor([1.05, 1.0, 1.1]).double() ** 3
    best = int(((per_atom - 20.0) ** 2).argmin())
    assert made.crystals.ids == ("abc"[best],)


def test_no_two_of_the_ranked_are_the_same(generator):
    ranked, _ = predict(generator, n=20, n_atoms=(3, 3))
    assert first_of_each(ranked.crystals) == list(range(len(ranked.crystals)))


def test_crystals_without_an_energy_come_last_and_are_counted(generator):
    ranked, _ = predict(generator, potential=Blind())
    energy = ranked.crystals.properties[ENERGY]
    known = torch.isfinite(energy)
    assert ranked.n_judged == 7
    assert known.any()
    assert not known.all()
    assert known.int().diff().max() <= 0


def test_a_file_and_its_record_hold_the_ranking(generator, tmp_path):
    ranked, request = predict(generator)
    out = tmp_path / "tio2.extxyz"
    written = write(ranked, out, generator, request, seed=1)
    back = read(out).crystals
    assert back.ids == ranked.crystals.ids
    torch.testing.assert_close(back.properties[ABOVE], ranked.crystals.properties[ABOVE])
    record = json.loads(written[1].read_text())["structure_prediction"]
    assert record["samples"] == 14
    assert record["structures"] == rows(ranked)
    with pytest.raises(InputError, match="exists"):
        write(ranked, out, generator, request, seed=1)


def test_a_formula_is_needed(generator):
    with pytest.raises(InputError, match="for a formula"):
        predict_structures(generator, GenerationRequest(n=1), Spring(), seed=0)
