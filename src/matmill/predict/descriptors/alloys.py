"""Columns for alloys: mismatch of the elements, and the enthalpy of mixing by Miedema's model."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.descriptors.properties import element_property
from matmill.predict.descriptors.shares import Shares, weighted_mean

_GAS_CONSTANT = 8.314462618e-3  # kJ/mol/K
_LARGEST_OMEGA = 100.0
# Miedema's constants: P of two transition metals, of none, of one; Q over P; liquids bind the
# p and d electrons less by the last one.
_P_BOTH, _P_NONE, _P_ONE = 14.2, 10.7, 12.35
_Q_OVER_P = 9.4
_LIQUID = 0.73
_TRANSITION = (*range(21, 30), *range(39, 48), *range(57, 80), 90, 92, 94)


def alloy_columns(shares: Shares) -> dict[str, Float[Tensor, " n"]]:
    """Return mismatch of sizes, electronegativity and stiffness, and enthalpy of mixing.

    Source:
        Yang and Zhang, Prediction of high-entropy stabilized solid-solution in multi-component
        alloys (2012), for the mismatch and omega; `pair_enthalpy` for the enthalpy.
    """
    columns = {}
    for name, label in (
        ("atomic_radius", "size_mismatch"),
        ("covalent_radius", "covalent_mismatch"),
        ("molar_volume", "volume_mismatch"),
        ("bulk_modulus", "stiffness_mismatch"),
    ):
        columns[label] = _mismatch(shares, name, relative=True)
    columns["electronegativity_mismatch"] = _mismatch(shares, "electronegativity", relative=False)
    return columns | _mixing(shares)


def _mismatch(shares: Shares, name: str, *, relative: bool) -> Tensor:
    """Return the root mean square deviation of a property from its mean."""
    values = shares.values(name)
    known = shares.share * torch.isfinite(values)
    mean = weighted_mean(values, known)[:, None]
    step = values / mean - 1 if relative else values - mean
    return weighted_mean(step**2, known).sqrt()


def _mixing(shares: Shares) -> dict[str, Tensor]:
    pairs = pair_enthalpy()[shares.number[:, :, None], shares.number[:, None, :]]
    weight = shares.share[:, :, None] * shares.share[:, None, :]
    is_unknown = (torch.isnan(pairs) & (weight > 0)).any(2).any(1)
    filled = pairs.nan_to_num(0.0)
    # Every pair stands twice in the sum; a regular solution has 4 H x (1 - x).
    enthalpy = 2 * (filled * weight).sum((1, 2))
    spread = ((filled - enthalpy[:, None, None]) ** 2 * weight).sum((1, 2)).sqrt()
    entropy = -torch.xlogy(shares.share, shares.share).sum(1) * _GAS_CONSTANT
    omega = shares.mean("melting_point") * entropy / enthalpy.abs().clamp_min(1e-9)
    return {
        "mixing_enthalpy_kj_mol": enthalpy.masked_fill(is_unknown, torch.nan),
        "mixing_enthalpy_spread_kj_mol": spread.masked_fill(is_unknown, torch.nan),
        "mixing_enthalpy_least_kj_mol": filled.amin((1, 2)).masked_fill(is_unknown, torch.nan),
        "mixing_enthalpy_most_kj_mol": filled.amax((1, 2)).masked_fill(is_unknown, torch.nan),
        "yang_omega": omega.clamp_max(_LARGEST_OMEGA).masked_fill(is_unknown, torch.nan),
    }


@cache
def pair_enthalpy() -> Float[Tensor, "119 119"]:
    """Return the enthalpy of mixing of equal amounts of two liquid elements, in kJ/mol.

    Metalloids count as if they were metals: no enthalpy of transformation is added.

    Returns:
        By both atomic numbers, symmetric, 0 on the diagonal, NaN where a parameter is unknown.

    Source:
        de Boer et al., Cohesion in Metals (1988); Takeuchi and Inoue, Classification of bulk
        metallic glasses (2005), for the use in alloys.
    """
    volume = element_property("miedema_volume") ** (2 / 3)
    density = element_property("miedema_density") ** (1 / 3)
    potential = element_property("miedema_potential")
    hybrid = element_property("miedema_hybridisation")
    transfer = element_property("miedema_transfer")
    is_transition = torch.zeros(len(volume), dtype=torch.bool)
    is_transition[list(_TRANSITION)] = True
    n_transition = is_transition[:, None].long() + is_transition[None, :].long()
    strength = torch.tensor([_P_NONE, _P_ONE, _P_BOTH], dtype=torch.float64)[n_transition]
    step = potential[:, None] - potential[None, :]
    bound = torch.where(n_transition == 1, _LIQUID * hybrid[:, None] * hybrid[None, :], 0.0)
    bracket = -(step**2) + _Q_OVER_P * (density[:, None] - density[None, :]) ** 2 - bound
    # Charge transfer changes the volumes, more so the more of the surface is the other element.
    other = volume[None, :] / (volume[:, None] + volume[None, :])
    own = volume[:, None] * (1 + transfer[:, None] * other * step)
    surface = 0.5 * own * own.T / (own + own.T)
    spacing = 1 / density[:, None] + 1 / density[None, :]
    return 2 * strength * surface / spacing * bracket
