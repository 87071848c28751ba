"""The `slab` block: what matters of a layered crystal, whatever vacuum its cell has.

Area, thickness and the atoms at the surfaces of the layers do not depend on the width of the gap,
unlike density. The gap itself is a column too: it tells bulk crystals from isolated layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.predict.descriptors.bonds import Bonds, find_bonds
from matmill.predict.descriptors.dimensionality import LayerGeometry, components, layer_geometry
from matmill.predict.descriptors.pooling import group_max, group_mean, group_sum
from matmill.predict.descriptors.properties import element_property
from matmill.predict.descriptors.table import Features, from_columns

_SURFACE_ANGSTROM = 0.5  # an atom this deep belongs to the surface with weight 1/e
_PROPERTIES = (
    "atomic_number",
    "mendeleev_number",
    "group",
    "period",
    "electronegativity",
    "pyykko_radius",
    "van_der_waals_radius",
    "polarizability",
    "first_ionization_energy",
    "electron_affinity",
    "valence_electrons",
)
_PER_AREA = {
    "mass": "mass_amu",
    "valence_electrons": "valence_electrons",
    "polarizability": "polarizability_angstrom3",
}


def slab_block(batch: CrystalBatch) -> Features:
    """Return the geometry and the surfaces of the layers of each crystal.

    Args:
        batch: Any number of crystals, layered or not.

    Returns:
        One row a crystal, finite but for element properties that nobody measured.

    Raises:
        InputError: If a crystal has no volume, unknown coordinates or a masked atom.
    """
    layers = layer_geometry(batch)
    bonds = find_bonds(batch)
    columns = _geometry(batch, layers) | _in_plane(batch, layers)
    columns |= _per_area(batch, layers)
    columns |= _surfaces(batch, layers, bonds)
    rank = components(bonds).rank
    columns["layered_share"] = group_mean((rank == 2).double(), batch.crystal_index, len(batch))
    columns["dimensionality"] = group_max(rank.double(), batch.crystal_index, len(batch))
    return from_columns(columns)


def _geometry(batch: CrystalBatch, layers: LayerGeometry) -> dict[str, Tensor]:
    n, owner = len(batch), batch.crystal_index
    n_layer_atoms = batch.n_atoms / layers.n_layers
    radius = element_property("pyykko_radius")[batch.atomic_numbers]
    spheres = group_sum(4 * torch.pi / 3 * radius**3, owner, n) / layers.n_layers
    # Half a mean radius beyond the outermost centres on either side: a flat layer is not empty.
    extent = layers.thickness + 2 * group_mean(radius, owner, n)
    middle = layers.height - 0.5 * (layers.height + layers.depth)
    return {
        "area_angstrom2": layers.area,
        "area_per_atom_angstrom2": layers.area_per_atom,
        "thickness_angstrom": layers.thickness,
        "thickness_per_atom_angstrom": layers.thickness / n_layer_atoms,
        "vacuum_angstrom": layers.vacuum,
        "vacuum_share": layers.vacuum / (layers.vacuum + layers.thickness),
        "packing": spheres / (layers.area * extent),
        "height_spread_angstrom": group_mean(middle**2, owner, n).sqrt(),
        "n_layers": layers.n_layers.double(),
        "atoms_per_layer": n_layer_atoms,
    }


def _in_plane(batch: CrystalBatch, layers: LayerGeometry) -> dict[str, Tensor]:
    """Return lengths and angle of the shortest vectors that span a layer."""
    short, long = _reduced(_plane_basis(layers.normal) @ batch.lattice.double())
    a, b = short.norm(dim=1), long.norm(dim=1)
    cosine = ((short * long).sum(1).abs() / (a * b)).clamp_max(1.0)
    return {
        "in_plane_short_angstrom": a,
        "in_plane_long_angstrom": b,
        "in_plane_aspect": b / a,
        "in_plane_angle_degrees": torch.rad2deg(torch.arccos(cosine)),
    }


def _plane_basis(normal: Tensor) -> Float[Tensor, "n_crystals 2 3"]:
    """Return two whole-number vectors that span the lattice plane with entries of 0 and ±1."""
    h = normal.double()
    first = torch.zeros_like(h)
    second = torch.zeros_like(h)
    rows = torch.arange(len(h))
    pivot = (h != 0).long().argmax(1)  # its entry is 1: see the list of normals
    others = torch.stack([(pivot + 1) % 3, (pivot + 2) % 3], dim=1)
    for vector, column in ((first, 0), (second, 1)):
        other = others[:, column]
        vector[rows, other] = 1.0
        vector[rows, pivot] = -h[rows, other]
    return torch.stack([first, second], dim=1)


def _reduced(basis: Float[Tensor, "n 2 3"]) -> tuple[Tensor, Tensor]:
    """Return the two shortest vectors of plane lattices, by Gauss's reduction."""
    first, second = basis[:, 0], basis[:, 1]
    for _ in range(32):  # each round at least halves a vector; cells are not that skewed
        swap = ((second**2).sum(1) < (first**2).sum(1))[:, None]
        first, second = torch.where(swap, second, first), torch.where(swap, first, second)
        steps = torch.round((first * second).sum(1) / (first**2).sum(1))
        if not bool(steps.any()):
            break
        second = second - steps[:, None] * first
    return first, second


def _per_area(batch: CrystalBatch, layers: LayerGeometry) -> dict[str, Tensor]:
    columns = {}
    for name, label in _PER_AREA.items():
        values = element_property(name)[batch.atomic_numbers].nan_to_num(0.0)
        total = group_sum(values, batch.crystal_index, len(batch)) / layers.n_layers
        columns[f"{label}_per_angstrom2"] = total / layers.area
    return columns


def _surfaces(batch: CrystalBatch, layers: LayerGeometry, bonds: Bonds) -> dict[str, Tensor]:
    """Return the mean of the two surfaces and their difference, for each property."""
    weights = [torch.exp(-((x / _SURFACE_ANGSTROM) ** 2)) for x in (layers.depth, layers.height)]
    area = layers.area * layers.n_layers
    columns = {}
    sites = {name: element_property(name)[batch.atomic_numbers] for name in _PROPERTIES}
    sites["coordination"] = bonds.coordination
    for name, values in sites.items():
        top, bottom = (_weighted(values, weight, batch) for weight in weights)
        columns[f"surface_{name}_mean"] = 0.5 * (top + bottom)
        columns[f"surface_{name}_difference"] = (top - bottom).abs()
    for name in ("polarizability", "van_der_waals_radius"):
        values = sites[name].nan_to_num(0.0)
        values = values if name == "polarizability" else torch.pi * values**2
        total = group_sum(values * (weights[0] + weights[1]), batch.crystal_index, len(batch))
        label = "polarizability_angstrom" if name == "polarizability" else "coverage"
        columns[f"surface_{label}"] = 0.5 * total / area
    count = group_sum(weights[0] + weights[1], batch.crystal_index, len(batch))
    columns["surface_atoms_per_angstrom2"] = 0.5 * count / area
    contact = 2 * columns["surface_van_der_waals_radius_mean"]
    columns["vacuum_over_contact"] = layers.vacuum / contact
    return columns


def _weighted(values: Tensor, weight: Tensor, batch: CrystalBatch) -> Tensor:
    """Return the weighted mean of each crystal over its atoms with a value, NaN without any."""
    weight = weight * torch.isfinite(values)
    total = group_sum(weight, batch.crystal_index, len(batch))
    mean = group_sum(values.nan_to_num(0.0) * weight, batch.crystal_index, len(batch)) / total
    return mean.masked_fill(total == 0, torch.nan)
