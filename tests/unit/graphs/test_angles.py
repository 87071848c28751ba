import numpy as np
import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.graphs.angles import LARGEST_DEGREE, harmonics
from matmill.graphs.graph import build, build_cached


def _vectors(n=200, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=rng, dtype=torch.float64)


def _parts(values):
    sizes = [2 * degree + 1 for degree in range(round(values.shape[-1] ** 0.5))]
    return values.split(sizes, dim=-1)


def test_products_are_the_legendre_polynomials_of_the_angle():
    one, other = _vectors(seed=0), _vectors(seed=1)
    cosine = torch.nn.functional.cosine_similarity(one, other).numpy()
    found = zip(_parts(harmonics(one, 4)), _parts(harmonics(other, 4)), strict=True)
    for degree, (a, b) in enumerate(found):
        expected = np.polynomial.legendre.Legendre.basis(degree)(cosine)
        np.testing.assert_allclose((a * b).sum(1).numpy(), expected, atol=1e-12)


def test_values_span_what_scipy_gives():
    from scipy.special import sph_harm_y

    vectors = torch.nn.functional.normalize(_vectors(), dim=1)
    polar = torch.arccos(vectors[:, 2]).numpy()
    azimuth = torch.atan2(vectors[:, 1], vectors[:, 0]).numpy()
    for degree, values in enumerate(_parts(harmonics(vectors, LARGEST_DEGREE))):
        real = []
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, azimuth)
            part = value.imag if order < 0 else value.real
            real.append(part * (-1.0) ** order * (2.0**0.5 if order else 1.0))
        expected = np.stack(real, axis=1) * np.sqrt(4 * np.pi / (2 * degree + 1))
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-12)


def test_length_does_not_matter_and_none_has_no_direction():
    vectors = _vectors()
    torch.testing.assert_close(harmonics(3.7 * vectors, 4), harmonics(vectors, 4))
    nothing = harmonics(torch.zeros(2, 3), 4)
    assert bool((nothing[:, 0] == 1.0).all())
    assert not bool(nothing[:, 1:].any())


def test_degrees_out_of_range_are_refused():
    with pytest.raises(ValueError, match="0 to 4"):
        harmonics(_vectors(1), 5)


def _box_of_molecules():
    """A square and a tetrahedron of oxygen around iron in one cell, all bonds 2 Å long."""
    r, corner = 2.0, 2.0 / 3.0**0.5
    flat = [[r, 0, 0], [-r, 0, 0], [0, r, 0], [0, -r, 0]]
    solid = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    sites = [[0, 0, 0], *flat] + [
        [20.0 + corner * x for x in point] for point in [[0, 0, 0], *solid]
    ]
    sites = [[x / 40.0 for x in point] for point in sites]
    lattice = (torch.eye(3) * 40.0).tolist()
    return CrystalBatch.from_lists([lattice], [sites], [[26, 8, 8, 8, 8] * 2])


def test_atoms_that_differ_in_angles_only_are_merged_only_where_angles_are_not_kept():
    crystals = _box_of_molecules()
    without = build(crystals, k=5, cutoff=2.5, is_merged=True)
    kept = build(crystals, k=5, cutoff=2.5, is_merged=True, degree=2)
    assert without.n_atoms.tolist() == [2]
    assert kept.n_atoms.tolist() == [4]
    assert sorted(kept.weight.tolist()) == [1.0, 1.0, 4.0, 4.0]


def test_joined_edges_carry_the_mean_direction():
    lattice = (torch.eye(3) * 4.2).tolist()
    crystals = CrystalBatch.from_lists([lattice], [[[0, 0, 0], [0.5, 0.5, 0.5]]], [[55, 17]])
    graph = build(crystals, k=16, is_merged=True, degree=4)
    # 8 unlike neighbours, then 6 like ones. A cube and an octahedron have no moments of degree 1
    # to 3; those of degree 4 differ in sign and size (-7/9 · √(7/12) …, from their vertices).
    assert graph.count[0].tolist()[:4] == [8.0, 6.0, 2.0, 0.0]
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)])
    for column, vertices in enumerate((cube, octahedron)):
        expected = harmonics(vertices, 4).mean(0)
        assert float(expected[1:16].abs().max()) < 1e-6 < float(expected[16:].norm())
        torch.testing.assert_close(graph.direction[0, column], expected, atol=1e-5, rtol=1e-5)
    # Of the next 12 only 2 are listed; which, must not matter.
    assert not bool(graph.direction[0, 2:, 1:].any())


def test_directions_fade_as_a_neighbour_comes_to_the_last_place():
    edges = torch.tensor([3.0, 3.0 + 1e-4, 3.1, 3.4])
    faded = []
    for edge in edges.tolist():
        lattice = torch.diag(torch.tensor([edge, 3.0, 3.0])).tolist()
        crystals = CrystalBatch.from_lists([lattice], [[[0, 0, 0]]], [[26]])
        graph = build(crystals, k=5, degree=1)
        faded.append(float(graph.direction[0, 0, 1:].norm()))
    assert faded[0] == 0.0
    assert faded[1] < 1e-5
    assert 0.1 < faded[2] < 0.9
    assert faded[3] == pytest.approx(1.0)


def test_directions_are_selected_and_cached_with_the_rest(tmp_path):
    crystals = CrystalBatch.from_lists(
        [(torch.eye(3) * 3.0).tolist(), (torch.eye(3) * 4.0).tolist()],
        [[[0, 0, 0]], [[0, 0, 0], [0.3, 0.4, 0.5]]],
        [[26], [11, 17]],
    )
    graph = build(crystals, degree=2)
    assert graph.direction.shape == (3, 12, 9)
    torch.testing.assert_close(graph.select([1]).direction, graph.direction[1:])
    assert build(crystals).direction is None
    first = build_cached(crystals, folder=tmp_path, degree=2)
    again = build_cached(crystals, folder=tmp_path, degree=2)
    assert torch.equal(first.direction, graph.direction)
    assert torch.equal(again.direction, graph.direction)
    assert build_cached(crystals, folder=tmp_path).direction is None
