"""Generating into files."""

import json

import pytest
import torch

from matmill.crystals import symmetry
from matmill.crystals.files import read
from matmill.crystals.symmetry import SYMPREC
from matmill.errors import InputError
from matmill.generate.deliver import FOUND, REQUESTED, generate
from matmill.generate.protocol import GenerationRequest


@pytest.mark.parametrize("name", ["new.extxyz", "new.parquet", "new.jsonl", "folder"])
def test_every_crystal_arrives_with_a_record(generator, tmp_path, name):
    out = tmp_path / name
    made = generate(generator, GenerationRequest(n=5, n_steps=2), seed=3, out=out)
    assert len(made.crystals) == 5
    record = json.loads(made.written[1].read_text())
    assert record["seed"] == 3
    assert record["request"]["n"] == 5
    result = read(out)
    assert not result.complaints
    crystals = result.crystals
    assert sorted(crystals.formula) == sorted(made.crystals.formula)


def test_nothing_is_overwritten(generator, tmp_path):
    out = tmp_path / "new.extxyz"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        generate(generator, GenerationRequest(n=1, n_steps=1), seed=0, out=out)
    assert out.read_text() == "mine"


def test_an_unknown_suffix_is_refused_before_sampling(generator, tmp_path):
    with pytest.raises(InputError, match="not a known format"):
        generate(generator, GenerationRequest(n=1), seed=0, out=tmp_path / "new.doc")


def test_progress_counts_to_the_end(generator):
    seen = []
    generate(generator, GenerationRequest(n=6, n_steps=1), seed=0, on_event=seen.append)
    assert seen[-1].done == seen[-1].total == 6


@pytest.mark.parametrize("name", ["new.extxyz", "new.parquet", "new.jsonl", "new.json"])
def test_groups_asked_for_and_found_are_in_every_format(generator, tmp_path, name):
    out = tmp_path / name
    request = GenerationRequest(n=4, n_steps=2, space_group=225)
    made = generate(generator, request, seed=3, out=out)
    back = read(out).crystals
    order = [back.ids.index(i) for i in made.crystals.ids]
    for key in (REQUESTED, FOUND):
        assert torch.equal(back.properties[key][order], made.crystals.properties[key])
    found = symmetry.find(made.crystals, symprec=SYMPREC).number
    assert torch.equal(made.crystals.properties[FOUND].long(), found)
    record = json.loads(made.written[1].read_text())
    assert record["symmetry"] == {"library": "moyopy", "symprec_angstrom": SYMPREC}
    assert [row["id"] for row in record["crystals"]] == list(made.crystals.ids)
    assert [row[FOUND] for row in record["crystals"]] == found.tolist()
    assert {row[REQUESTED] for row in record["crystals"]} == {225}


def test_cifs_say_which_group_was_asked_for(generator, tmp_path):
    request = GenerationRequest(n=2, n_steps=2, space_group=225)
    made = generate(generator, request, seed=3, out=tmp_path / "cifs")
    for name, found in zip(
        made.crystals.ids, made.crystals.properties[FOUND].tolist(), strict=True
    ):
        text = (tmp_path / "cifs" / f"{name}.cif").read_text()
        assert "_matmill_space_group_requested   225\n" in text
        assert f"_matmill_space_group_found   {found:.0f}\n" in text


def test_nothing_was_asked_for_where_nobody_asked(generator):
    made = generate(generator, GenerationRequest(n=3, n_steps=1), seed=0)
    assert made.crystals.properties[REQUESTED].isnan().all()
    assert (made.crystals.properties[FOUND] >= 1).all()
