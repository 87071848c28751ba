import pytest
import torch

from matmill.errors import InputError
from matmill.graphs.graph import Graph
from matmill.predict.domain import Domain, elements_of


def _normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def _elements(rows):
    has = torch.zeros(len(rows), 119)
    for i, numbers in enumerate(rows):
        has[i, numbers] = 1.0
    return has


@pytest.fixture(scope="module")
def oxides():
    features = _normal(3000, 6, 0) * torch.tensor([1.0, 100.0, 0.01, 1, 1, 1])
    elements = _elements([[8, 3 + i % 4] for i in range(3000)])
    return Domain.fit(features, elements, shortest_bond=torch.linspace(1.5, 3.0, 3000))


def test_one_in_a_hundred_alike_crystals_is_outside(oxides):
    fresh = _normal(4000, 6, 1) * torch.tensor([1.0, 100.0, 0.01, 1, 1, 1])
    inside, reasons = oxides.judge(fresh, _elements([[8, 3]] * 4000))
    assert float(inside.double().mean()) == pytest.approx(0.99, abs=0.006)
    assert all(bool(text) != ok for text, ok in zip(reasons, inside.tolist(), strict=True))


def test_each_reason_is_told(oxides):
    features = torch.zeros(4, 6)
    features[1, 2] = 0.5  # fifty standard deviations of a feature with small numbers
    elements = _elements([[8, 3], [8, 3], [8, 43, 54], [8]])
    bonds = torch.tensor([2.0, 2.0, 2.0, 0.9])
    inside, reasons = oxides.judge(features, elements, shortest_bond=bonds)
    assert inside.tolist() == [True, False, False, False]
    assert reasons == (
        "",
        "farther than 99 % of training crystals",
        "elements Tc, Xe never seen",
        "shortest bond 0.90 Å",
    )


def test_a_hole_between_two_families_is_outside():
    # A Mahalanobis distance from the mean would call the empty middle the safest place.
    features = torch.cat([_normal(500, 3, 2) - 20, _normal(500, 3, 3) + 20])
    domain = Domain.fit(features, _elements([[8]] * 1000))
    asked = torch.stack([torch.zeros(3), torch.full((3,), 20.0)])
    assert domain.judge(asked, _elements([[8]] * 2))[0].tolist() == [False, True]


def test_mean_nearest_distance_equals_a_plain_search():
    features, asked = _normal(40, 3, 4), _normal(7, 3, 5)
    domain = Domain.fit(features, _elements([[8]] * 40))
    apart = (domain.project(asked)[:, None] - domain.project(features)[None]).norm(dim=2)
    expected = apart.sort(1).values[:, :5].mean(1)
    assert torch.allclose(domain.distance(asked), expected.double(), atol=1e-5)
    # Projected features of training have unit variance on every axis.
    assert torch.allclose(domain.project(features).var(0, correction=0), torch.ones(3), atol=1e-4)


def test_missing_features_are_the_average_and_constant_ones_do_no_harm():
    features = torch.cat([_normal(200, 3, 6), torch.full((200, 1), 7.0)], dim=1)
    features[::3, 1] = torch.nan
    domain = Domain.fit(features, _elements([[8]] * 200))
    asked = torch.tensor([[0.0, torch.nan, 0.0, 7.0]]).double()
    inside, _ = domain.judge(asked, _elements([[8]]))
    assert inside.tolist() == [True]
    assert torch.isfinite(domain.distance(asked)).all()


def test_percentiles_come_from_held_out_crystals():
    features = _normal(500, 3, 7)
    domain = Domain.fit(features, _elements([[8]] * 500), held_out=10 * _normal(300, 3, 8))
    inside, _ = domain.judge(10 * _normal(1000, 3, 9), _elements([[8]] * 1000))
    assert float(inside.double().mean()) > 0.95


def test_stored_and_read_back_it_judges_alike(oxides, tmp_path):
    from safetensors.torch import load_file, save_file

    save_file(oxides.tensors(), tmp_path / "d.safetensors")
    again = Domain.of(load_file(tmp_path / "d.safetensors"))
    asked, elements = _normal(50, 6, 10), _elements([[8, 3]] * 50)
    assert oxides.judge(asked, elements)[1] == again.judge(asked, elements)[1]


def test_few_or_no_crystals():
    lonely = Domain.fit(torch.ones(1, 2), _elements([[8]]))
    assert lonely.judge(torch.ones(1, 2), _elements([[8]]))[0].tolist() == [True]
    assert lonely.judge(torch.ones(0, 2), _elements([]))[1] == ()
    with pytest.raises(InputError, match="at least one"):
        Domain.fit(torch.ones(0, 2), _elements([]))


def test_elements_of_a_graph():
    graph = Graph(
        n_atoms=torch.tensor([2, 2]),
        atomic_numbers=torch.tensor([3, 8, 8, 11]),
        neighbor=torch.zeros(4, 0, dtype=torch.int32),
        distance=torch.zeros(4, 0),
        mask=torch.zeros(4, 0, dtype=torch.bool),
    )
    assert torch.nonzero(elements_of(graph)).tolist() == [[0, 3], [0, 8], [1, 8], [1, 11]]


def test_few_held_out_crystals_cannot_narrow_the_domain():
    features = _normal(500, 3, 11)
    domain = Domain.fit(features, _elements([[8]] * 500))
    narrow = domain.measured_on(domain.distance(_normal(5, 3, 12) * 0.1))
    assert float(narrow.distances[99]) >= float(domain.distances[99])
    many = domain.measured_on(domain.distance(_normal(500, 3, 13) * 0.1))
    assert float(many.distances[99]) < float(domain.distances[99])
