"""Generating into files."""

import json

import pytest

from matmill.crystals.files import read
from matmill.errors import InputError
from matmill.generate.deliver import generate
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
