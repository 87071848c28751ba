"""Templates of crystals."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matmill.crystals.batch import concatenate
from matmill.errors import InputError
from matmill.generate.wyckoff.encoding import canonical, encode, remaining
from matmill.generate.wyckoff.positions import positions, swaps
from matmill.generate.wyckoff.templates import Template, templates


def test_counts_and_order():
    made = Template(space_group=221, letters=("c", "a", "b"), elements=(8, 38, 22))
    assert made.elements == (8, 22, 38)
    assert made.letters == ("c", "b", "a")
    assert made.n_atoms == 5
    assert made.formula == {"O": 3, "Ti": 1, "Sr": 1}


@pytest.mark.parametrize(
    ("letters", "elements", "message"),
    [
        (("a", "a"), (11, 17), "one orbit fits"),
        (("x",), (11,), "no position 'x'"),
        ((), (), "one letter and one element"),
    ],
)
def test_impossible_templates_are_refused(letters, elements, message):
    with pytest.raises(InputError, match=message):
        Template(space_group=225, letters=letters, elements=elements)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_crystal_of_a_template_has_that_template(data, build):
    space_group = data.draw(st.sampled_from([2, 5, 12, 19, 33, 62, 82, 136, 148, 166, 186, 194]))
    names = list(positions(space_group))
    letter = data.draw(st.sampled_from(names))
    # Two general orbits pin the group, whatever the chosen position alone would have.
    made = Template(
        space_group=space_group, letters=(letter, names[-1], names[-1]), elements=(8, 26, 29)
    )
    (found,) = templates(build(made, seed=1), symprec=1e-3)
    assert found is not None
    assert found.space_group == space_group
    assert canonical(found) == canonical(made)


def test_templates_of_well_known_crystals(known, build):
    found = templates(concatenate([build(t) for t in known[:4]]), symprec=1e-3)
    assert [canonical(t) for t in found if t] == [canonical(t) for t in known[:4]]


def test_another_origin_gives_the_same_canonical_template():
    one = Template(space_group=225, letters=("a", "b"), elements=(11, 17))
    other = Template(space_group=225, letters=("b", "a"), elements=(11, 17))
    assert one != other
    assert canonical(one) == canonical(other)
    different = Template(space_group=225, letters=("a", "c"), elements=(11, 17))
    assert canonical(different) != canonical(one)


def test_canonical_is_the_same_for_all_swaps():
    names = list(positions(47))
    for row in swaps(47).tolist():
        moved = Template(
            space_group=47,
            letters=tuple(names[row[names.index(k)]] for k in "abi"),
            elements=(3, 8, 26),
        )
        start = Template(space_group=47, letters=("a", "b", "i"), elements=(3, 8, 26))
        assert canonical(moved) == canonical(start)


def test_encoding_counts_what_is_left(known):
    batch = encode([canonical(t) for t in known])
    slots, left = remaining(batch)
    assert torch.equal(batch.counts.sum(1), torch.tensor([t.n_atoms for t in known]))
    assert left[0].tolist()[:3] == [1, 1, 0]  # Na, Cl, nothing
    assert slots[0].tolist()[:3] == [0, 1, 0]
    assert batch.elements[0].tolist()[:2] == [11, 17]  # the electropositive one first
