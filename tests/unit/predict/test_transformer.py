import math
from dataclasses import replace

import pytest
import torch

from matmill import registry
from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import InputError
from matmill.graphs.angles import harmonics
from matmill.graphs.augment import augmented
from matmill.graphs.graph import build
from matmill.predict.gate import Edges
from matmill.predict.networks import degree_read, graphs_for, make_network, network_class
from matmill.predict.pretrain.encoder import LEFT_OUT, save_encoder
from matmill.predict.pretrain.train import PretrainSettings
from matmill.predict.protocol import load_predictor
from matmill.predict.train import TrainSettings, train_predictor
from matmill.predict.transformer import (
    CrystalTransformer,
    NeighborAttention,
    TransformerPredictor,
)
from matmill.predict.transformer_moments import SOFTENING, Directions, sizes_of_moments

SMALL = {"width": 16, "hidden": 16, "channels": 16, "key_width": 4}


def _crystals(seed=0, sizes=(2, 1, 4)):
    rng = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    return CrystalBatch(
        lattice=4 * torch.eye(3).double() + torch.rand(len(sizes), 3, 3, generator=rng).double(),
        frac_coords=torch.rand(n, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 90, (n,), generator=rng),
        n_atoms=torch.tensor(sizes),
    )


def _network(degree=2):
    torch.manual_seed(0)
    network = CrystalTransformer(2, degree=degree, **SMALL).eval()
    for attend in network.attention:  # larger than at the start, so that differences show
        torch.nn.init.normal_(attend.edge.weight, mean=0.5, std=0.5)
    return network


def _outputs(network, crystals, *, is_merged=True, k=12):
    with torch.no_grad():
        return network(build(crystals, k=k, is_merged=is_merged, degree=max(network.degree, 2)))[0]


def _turn(seed=1):
    rng = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    return turn * torch.det(turn).sign()


def _changed(crystals, **changes):
    fields = ("lattice", "frac_coords", "atomic_numbers", "n_atoms")
    return CrystalBatch(**{**{name: getattr(crystals, name) for name in fields}, **changes})


def _supercell(crystals, times):
    """One crystal, repeated along each axis."""
    shifts = torch.cartesian_prod(*(torch.arange(m) for m in times)).double()
    sites = crystals.frac_coords[None] + shifts[:, None]
    return CrystalBatch(
        lattice=crystals.lattice * torch.tensor(times).double()[:, None],
        frac_coords=(sites / torch.tensor(times)).reshape(-1, 3),
        atomic_numbers=crystals.atomic_numbers.repeat(len(shifts)),
        n_atoms=crystals.n_atoms * len(shifts),
    )


@pytest.mark.parametrize("change", ["turn", "mirror", "shift", "wrap"])
def test_output_does_not_depend_on_how_the_crystal_lies(change):
    network, crystals = _network(), _crystals()
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]).double())
    shift = torch.tensor([0.31, 0.77, 0.05]).double()
    moved = {
        "turn": {"lattice": crystals.lattice @ _turn()},
        "mirror": {"lattice": crystals.lattice @ mirror},
        "shift": {"frac_coords": (crystals.frac_coords + shift) % 1.0},
        "wrap": {"frac_coords": crystals.frac_coords + torch.tensor([2.0, -1.0, 0.0]).double()},
    }[change]
    found = _outputs(network, _changed(crystals, **moved))
    torch.testing.assert_close(found, _outputs(network, crystals), atol=1e-4, rtol=1e-4)


def test_order_of_atoms_does_not_matter():
    network, crystals = _network(), _crystals()
    order = torch.tensor([1, 0, 2, 6, 4, 3, 5])
    moved = _changed(
        crystals,
        frac_coords=crystals.frac_coords[order],
        atomic_numbers=crystals.atomic_numbers[order],
    )
    torch.testing.assert_close(
        _outputs(network, moved), _outputs(network, crystals), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_supercell_has_the_same_output(is_merged):
    network, crystals = _network(), _crystals(sizes=(3,))
    large = _supercell(crystals, (2, 1, 3))
    found = _outputs(network, large, is_merged=is_merged)
    torch.testing.assert_close(found, _outputs(network, crystals), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("k", [9, 12, 20])
def test_a_cut_through_equally_far_neighbours_does_not_show(k):
    network = _network()
    cell = CrystalBatch.from_lists(
        [(torch.eye(3) * 4.12).tolist()], [[[0, 0, 0], [0.5, 0.5, 0.5]]], [[55, 17]]
    )
    basis = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 1, 1]]).double()
    skew = _changed(
        cell,
        lattice=basis @ cell.lattice,
        frac_coords=cell.frac_coords @ torch.linalg.inv(basis),
    )
    expected = _outputs(network, cell, k=k)
    for other in (skew, _supercell(cell, (2, 1, 2))):
        found = _outputs(network, other, k=k)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def _symmetric():
    """Crystals with many equal atoms and edges, one of them with equal atoms turned apart."""
    half = 0.5
    fcc = [[0, 0, 0], [0, half, half], [half, 0, half], [half, half, 0]]
    rock_salt = fcc + [[x + half, y, z] for x, y, z in fcc]
    rutile_u = 0.3053
    rutile = [
        [0, 0, 0],
        [half, half, half],
        [rutile_u, rutile_u, 0],
        [-rutile_u, -rutile_u, 0],
        [half + rutile_u, half - rutile_u, half],
        [half - rutile_u, half + rutile_u, half],
    ]
    cubic, tetragonal = torch.eye(3) * 5.64, torch.diag(torch.tensor([4.594, 4.594, 2.959]))
    return CrystalBatch.from_lists(
        [cubic.tolist(), tetragonal.tolist()],
        [rock_salt, rutile],
        [[11] * 4 + [17] * 4, [22] * 2 + [8] * 4],
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_merged_nodes_and_edges_give_the_same(degree):
    network, crystals = _network(degree), _symmetric()
    full = build(crystals, is_merged=False, degree=3)
    small = build(crystals, is_merged=True, degree=3)
    assert small.n_atoms.tolist() == [2, 2]
    assert int(small.mask.sum()) < int(full.mask.sum()) / 4
    with torch.no_grad():
        torch.testing.assert_close(network(small)[0], network(full)[0], atol=1e-4, rtol=1e-4)


def _square_and_tetrahedron():
    """Two molecules with equal distances from the middle atom but other angles, and a pair.

    The outer atoms are of different elements, far from each other's reach by the choice of k.
    """
    r = 2.0
    flat = [[r, 0, 0], [-r, 0, 0], [0, r, 0], [0, -r, 0]]
    corner = r / math.sqrt(3)
    round_ = [[corner, corner, corner], [corner, -corner, -corner]]
    round_ += [[-corner, corner, -corner], [-corner, -corner, corner]]
    box = 40.0
    sites = [
        [[0.0, 0.0, 0.0], *[[x / box for x in p] for p in points]] for points in (flat, round_)
    ]
    lattice = (torch.eye(3) * box).tolist()
    return CrystalBatch.from_lists([lattice] * 2, sites, [[26, 8, 8, 8, 8]] * 2)


def test_angles_are_seen_from_degree_two_on():
    crystals = _square_and_tetrahedron()

    def middle(degree):
        torch.manual_seed(0)
        attend = NeighborAttention(
            8, channels=8, n_heads=2, key_width=4, degree=degree, cutoff=8.0
        ).eval()
        graph = build(crystals, k=5, degree=3)
        edges = Edges.of(graph, step=0.01, cutoff=8.0, is_interpolated=True)
        atoms = torch.linspace(-1, 1, 8)[None] * graph.atomic_numbers[:, None].float().sqrt()
        with torch.no_grad():
            found = attend(atoms, edges, Directions.of(graph, degree))
        return found[0], found[5]

    # Both have their neighbours at one distance, and in both they balance: only degree 2 tells.
    for degree in (0, 1):
        flat, solid = middle(degree)
        torch.testing.assert_close(flat, solid, atol=1e-5, rtol=1e-4)
    flat, solid = middle(2)
    assert float((flat - solid).abs().max()) > 1e-2


def _plain_sizes(messages, vectors, source, n, degree):
    """Sizes of moments by Legendre polynomials of the angles between all pairs of edges."""
    cosine = torch.nn.functional.normalize(vectors, dim=1)
    cosine = cosine @ cosine.T
    polynomials = [
        torch.ones_like(cosine),
        cosine,
        1.5 * cosine**2 - 0.5,
        2.5 * cosine**3 - 1.5 * cosine,
        (35 * cosine**4 - 30 * cosine**2 + 3) / 8,
    ]
    rows = []
    for i in range(n):
        mine = source == i
        said = messages[mine]
        sizes = [said.sum(0)]
        for degree_ in range(1, degree + 1):
            p = polynomials[degree_][mine][:, mine]
            sizes.append((torch.einsum("ac,ab,bc->c", said, p, said) + SOFTENING).sqrt())
        rows.append(torch.cat(sizes))
    return torch.stack(rows)


def test_sizes_and_their_gradients_equal_sums_over_pairs():
    rng = torch.Generator().manual_seed(0)
    graph = build(_crystals(), degree=4)
    n, k = graph.mask.shape
    vectors = torch.randn(n * k, 3, generator=rng, dtype=torch.float64)
    object.__setattr__(graph, "direction", harmonics(vectors, 4).view(n, k, -1))
    source = torch.arange(n).repeat_interleave(k)
    messages = torch.randn(n * k, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(n, 15, generator=rng, dtype=torch.float64)
    found = sizes_of_moments(messages, Directions.of(graph, 4))
    expected = _plain_sizes(messages, vectors, source, n, 4)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad((found * weights).sum(), messages)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), messages)
    torch.testing.assert_close(gradient, wanted)


def test_atoms_on_one_spot_and_alone_give_finite_gradients():
    crystals = CrystalBatch.from_lists(
        [(torch.eye(3) * 5).tolist(), (torch.eye(3) * 30).tolist()],
        [[[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5]], [[0.1, 0.2, 0.3]]],
        [[3, 9, 0], [18]],
    )
    network = _network().train()
    graph = build(crystals, degree=2)
    assert not bool(graph.mask[3].any())
    mean, noise = network(graph)
    (mean.square().sum() + noise.sum()).backward()
    assert bool(torch.isfinite(mean).all())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_masked_edges_are_as_if_they_were_not_there():
    network, crystals = _network(), _crystals(sizes=(5, 3))
    far = build(crystals, k=12, degree=2)
    assert far.direction is not None
    near = replace(build(crystals, k=6), direction=far.direction[:, :6])
    far.mask[:, 6:] = False
    far.count[:, 6:] = 0.0
    with torch.no_grad():
        torch.testing.assert_close(network(far)[0], network(near)[0], atol=1e-5, rtol=1e-5)
        view = augmented(build(crystals, is_merged=True, degree=2), torch.Generator())
        assert bool(torch.isfinite(network.embedding(view)).all())
        assert not torch.allclose(network(view)[0], network(near)[0])


def test_training_and_evaluation_differ_only_by_the_grid():
    network, crystals = _network(), _crystals(sizes=(5, 3))
    graph = build(crystals, degree=2)
    with torch.no_grad():
        exact = network(graph)[0]
        rounded = network.train()(graph)[0]
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)


def test_bfloat16_stays_close():
    network, crystals = _network(), _crystals(sizes=(4, 3, 6, 2))
    graph = build(crystals, degree=2)
    with torch.no_grad():
        exact = network(graph)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(graph)[0]
    assert rough.dtype == torch.float32
    assert float((rough - exact).abs().max()) < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.train()(graph)[0]
    rough.sum().backward()
    assert bool(torch.isfinite(network.embed.weight.grad).all())


def test_the_noise_head_does_not_train_the_rest():
    network = _network()
    network(build(_crystals(), degree=2))[1].sum().backward()
    assert network.noise.weight.grad is not None
    assert all(p.grad is None for n, p in network.named_parameters() if not n.startswith("noise"))


def test_registered_network_reads_what_graphs_for_builds():
    card = {"network": "transformer", "n_neighbors": 8, "cutoff_angstrom": 6.0}
    graph = graphs_for(card, _symmetric())
    assert degree_read("transformer") == 2
    network = network_class("transformer")(1, **SMALL, cutoff=6.0)
    assert network.embedding(graph).shape == (2, 16)


def test_graphs_without_directions_are_refused_clearly():
    with pytest.raises(InputError, match="degree=2"):
        _network()(build(_crystals()))
    with pytest.raises(InputError, match="multiple"):
        CrystalTransformer(1, channels=10, n_heads=4)


def _salts(n=120):
    """Rock-salt cells whose label follows from volume and elements."""
    rng = torch.Generator().manual_seed(0)
    edge = 2.0 + 1.5 * torch.rand(n, generator=rng).double()
    numbers = torch.tensor([3, 8, 11, 17])[torch.randint(4, (n, 2), generator=rng)]
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    crystals = CrystalBatch(
        lattice=edge[:, None, None] * cubic,
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=numbers.flatten(),
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"c{i}" for i in range(n)),
        properties={"band_gap_ev": edge + 0.5 * (numbers == 8).any(1)},
    )
    notes = {"split": tuple(["train"] * (n // 2) + ["val"] * (n // 4) + ["test"] * (n // 4))}
    return LabelledCrystals(crystals=crystals, notes=notes, source="salts.csv")


def test_the_registered_model_learns_saves_and_loads(tmp_path):
    table = _salts()
    settings = {"width": 16, "hidden": 16, "n_layers": 2, "n_members": 1, "epochs": 40}
    predictor = registry.predictors.load("transformer").fit(
        table,
        "band_gap",
        folder=tmp_path / "work",
        learning_rate=1e-2,
        batch_crystals=20,
        precision="fp32",
        **settings,
    )
    assert isinstance(predictor, TransformerPredictor)
    values = table.column("band_gap_ev")
    held_out = torch.arange(90, 120)
    found = predictor.predict(table.crystals.select(held_out))
    error = (found.mean - values[held_out]).abs().mean()
    assert float(error) < 0.5 * float((values - values[:60].median()).abs().mean())
    path = predictor.model.save(tmp_path / "salts")
    again = load_predictor(path).predict(table.crystals.select(held_out))
    assert torch.equal(again.mean, found.mean)
    assert torch.equal(again.std, found.std)


def test_its_lower_layers_serve_as_a_pretrained_encoder(tmp_path):
    settings = PretrainSettings(network="transformer", width=16, hidden=16, n_layers=1)
    network = make_network({"columns_trained": ["any"], **settings.network_card()})
    view = augmented(build(_crystals(), is_merged=True, degree=2), torch.Generator())
    network.embedding(view).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None]
    assert {name.split(".")[0] for name in untouched} == {"out", "noise"}
    file = save_encoder(tmp_path / "encoder", network, settings.network_card())
    model = train_predictor(
        _salts(),
        ["band_gap"],
        settings=TrainSettings(n_members=1, epochs=1, learning_rate=1e-6, precision="fp32"),
        folder=tmp_path / "work",
        start_from=str(file),
    )
    assert model.card["network"] == "transformer"
    taken = network.state_dict()
    for name, values in model.members[0].state_dict().items():
        is_taken = name in taken and torch.allclose(values, taken[name], atol=1e-4)
        assert is_taken == (name.split(".")[0] not in LEFT_OUT), name
