"""What every column means, in one line each."""

import re
from collections.abc import Sequence

from matmill.crystals.elements import unit
from matmill.errors import UnknownNameError
from matmill.predict.descriptors.properties import property_names

_STATISTIC = {
    "mean": "mean",
    "deviation": "mean absolute deviation from the mean",
    "std": "standard deviation",
    "min": "least value",
    "max": "largest value",
    "range": "largest less least value",
    "mode": "value of the most abundant element",
    "difference": "difference between the two surfaces",
}
_DERIVED = {
    "atomic_number": "atomic number",
    "n_unfilled_s": "free places in an occupied valence s shell",
    "n_unfilled_p": "free places in an occupied valence p shell",
    "n_unfilled_d": "free places in an occupied valence d shell",
    "n_unfilled_f": "free places in an occupied valence f shell",
    "n_valence": "electrons outside the noble-gas core",
    "n_unfilled": "free places in the occupied valence shells",
    "valence_electrons": "valence electrons by group (VEC)",
    "mulliken_electronegativity": "half the sum of ionisation energy and electron affinity, eV",
    "highest_orbital_energy": "highest occupied level of the free atom, eV",
    "coordination": "number of bonds",
}
_S = r"_(?P<s>mean|deviation|std|min|max|range|mode|difference)"

_COMPOSITION = (
    (r"n_elements", "Number of elements"),
    (r"norm_(\d+)", r"\1-norm of the atom fractions"),
    (r"largest_share", "Atom fraction of the most abundant element"),
    (r"mixing_entropy", "Ideal entropy of mixing per atom, in units of the gas constant"),
    (r"share_(\w+)", r"Atom fraction of this family of elements: \1"),
    (r"valence_share_([spdf])", r"Share of \1 electrons among the electrons outside the core"),
    (r"electronegativity_gap_max", "Largest difference of Pauling electronegativity"),
    (r"electronegativity_gap_mean", "Mean difference of electronegativity over pairs of atoms"),
    (r"ionic_character_max", "1 - exp(-d²/4) for the largest difference d of electronegativity"),
    (r"ionic_character_mean", "1 - exp(-d²/4), mean over pairs of atoms"),
    (r"band_centre_ev", "Minus the geometric mean of the Mulliken electronegativities, eV"),
    (r"orbital_gap_ev", "Highest less lowest of the elements' highest occupied levels, eV"),
    (r"size_mismatch", "Relative root mean square deviation of the atomic radii"),
    (r"covalent_mismatch", "Relative root mean square deviation of the covalent radii"),
    (r"volume_mismatch", "Relative root mean square deviation of the molar volumes"),
    (r"stiffness_mismatch", "Relative root mean square deviation of the elements' bulk moduli"),
    (r"electronegativity_mismatch", "Root mean square deviation of the electronegativities"),
    (r"oxidation_charge_least", "Least charge per atom that the common oxidation states allow"),
    (r"oxidation_charge_most", "Largest charge per atom that the common oxidation states allow"),
    (r"oxidation_imbalance", "Distance of that range of charges from zero, per atom"),
    (r"mixing_enthalpy_kj_mol", "Enthalpy of mixing of a regular solution by Miedema, kJ/mol"),
    (r"mixing_enthalpy_spread_kj_mol", "Deviation of the pairs' enthalpies from it, kJ/mol"),
    (r"mixing_enthalpy_least_kj_mol", "Most negative enthalpy of mixing of a pair, kJ/mol"),
    (r"mixing_enthalpy_most_kj_mol", "Largest enthalpy of mixing of a pair, kJ/mol"),
    (r"oxidation_negative", "Sum of the least oxidation states below zero, per atom"),
    (r"oxidation_positive", "Sum of the largest oxidation states above zero, per atom"),
    (r"yang_omega", "Melting point × entropy over enthalpy of mixing, at most 100"),
)
_STRUCTURE = (
    (r"density_g_per_cm3", "Mass density, g/cm³"),
    (r"volume_per_atom_angstrom3", "Volume of the cell over its atoms, Å³"),
    (r"atoms_per_angstrom3", "Atoms per Å³"),
    (r"valence_electrons_per_angstrom3", "Valence electrons (by group) per Å³"),
    (r"packing_covalent", "Volume of spheres with covalent radii over that of the cell"),
    (r"packing_atomic", "Volume of spheres with atomic (Slater) radii over that of the cell"),
    (r"volume_over_elements", "Volume per atom over the mean of the pure elements"),
    (r"clausius_mossotti_ratio", "4π/3 × sum of the free atoms' polarizabilities over the volume"),
    (r"clausius_mossotti_constant", "Dielectric constant (1+2x)/(1-x) of that ratio x ≤ 0.9"),
    (r"space_group_number", "International number of the space group"),
    (r"crystal_system_rank", "Crystal system from 0, triclinic, to 6, cubic"),
    (r"is_centrosymmetric", "1 if there is an inversion centre"),
    (r"is_polar", "1 if the point group keeps a direction"),
    (r"n_point_operations", "Order of the point group"),
    (r"n_primitive_atoms", "Atoms in the primitive cell"),
    (r"n_inequivalent_sites", "Kinds of sites that no symmetry operation connects"),
    (r"inequivalent_share", "Kinds of sites over atoms in the primitive cell"),
    (r"complexity_bits_per_atom", "Shannon entropy of the kinds of sites, bits per atom"),
    (r"complexity_bits_per_cell", "The same times the atoms in the primitive cell"),
    (r"conventional_aspect", "Longest over shortest vector of the conventional cell"),
    (r"conventional_angle_spread_degrees", "Largest deviation of its angles from 90°"),
    (rf"nearest_angstrom{_S}", "Distance to the nearest neighbour, Å: {s} over the atoms"),
    (r"nearest_packing", "Volume of spheres that reach half way to the nearest neighbour"),
    (rf"coordination{_S}", "Number of bonds of an atom: {s}"),
    (rf"bond_length_angstrom{_S}", "Bond length, Å: {s}"),
    (rf"bond_length_over_radii{_S}", "Bond length over the sum of covalent radii: {s}"),
    (rf"bond_gap_(\w+?){_S}", r"Difference of \1 along a bond: {s} over the bonds"),
    (rf"site_gap_(\w+?){_S}", r"Mean difference of \1 to the bonded atoms: {s} over the atoms"),
    (r"bond_share_same_element", "Share of the bonds between atoms of one element"),
    (r"bond_share_metal_metal", "Share of the bonds between two metals"),
    (r"bond_share_no_metal", "Share of the bonds between two non-metals"),
    (r"bonds_per_angstrom3", "Bonds per Å³"),
    (rf"spring_pair{_S}", "Frequency of two bonded atoms on a spring, any unit: {s}"),
    (rf"spring_site{_S}", "Frequency of an atom on its springs, others fixed, any unit: {s}"),
    (r"spring_modulus", "Bulk modulus of the network of springs, any unit"),
    (r"bond_direction_(\w+)", r"How much bonds point along one axis: \1 of three"),
    (rf"angle_degrees{_S}", "Angle between two bonds, degrees: {s}"),
    (r"angle_cosine_(\S+)", r"Share of angles near the cosine \1"),
    (rf"bond_order_(\d){_S}", r"Steinhardt order parameter Q\1 of the bonds: {s} over the atoms"),
    (rf"radial_(\S+){_S}", r"Neighbours per Å³ near the distance \1 Å: {s} over the atoms"),
    (rf"g2_(\S+){_S}", r"Radial symmetry function of width \1: {s} over the atoms"),
    (
        rf"g5_(\S+)_(\d)_(plus|minus){_S}",
        r"Angular symmetry function of width \1 and sharpness \2, \3 the cosine: {s}",
    ),
    (r"dimensionality", "3 framework, 2 layers, 1 chains, 0 molecules: the largest component"),
    (r"dimensionality_mean", "The same, mean over the atoms"),
    (rf"charge{_S}", "Charge by equalised electronegativity of the elements, e: {s}"),
    (r"madelung_energy_ev_per_atom", "Electrostatic energy of those charges by Ewald, eV/atom"),
    (rf"site_potential_volt{_S}", "Electrostatic potential at an atom, V: {s} over the atoms"),
)
_SLAB = (
    (r"area_angstrom2", "Area of a layer in the cell, Å²"),
    (r"area_per_atom_angstrom2", "Area of a layer over its atoms, Å²"),
    (r"thickness_angstrom", "Thickness of a layer from atom centre to atom centre, Å"),
    (r"thickness_per_atom_angstrom", "The same over the atoms of a layer, Å"),
    (r"vacuum_angstrom", "Width of the gap between layers, Å"),
    (r"vacuum_share", "Gap over gap and thickness"),
    (r"packing", "Volume of covalent spheres over that of a layer"),
    (r"height_spread_angstrom", "Standard deviation of the heights within a layer, Å"),
    (r"n_layers", "Layers in the cell"),
    (r"atoms_per_layer", "Atoms of a layer in the cell"),
    (r"in_plane_short_angstrom", "Shortest lattice vector within a layer, Å"),
    (r"in_plane_long_angstrom", "Second shortest lattice vector within a layer, Å"),
    (r"in_plane_aspect", "Their ratio"),
    (r"in_plane_angle_degrees", "Angle between them, at most 90°"),
    (r"(\w+)_per_angstrom2", r"Sum of \1 over a layer, per Å²"),
    (r"surface_polarizability_angstrom", "Polarizability of a surface's atoms per area, Å"),
    (r"surface_coverage", "Area of a surface's van der Waals discs over the area"),
    (rf"surface_(\w+?){_S}", r"\1 of the outermost atoms: {s}"),
    (r"vacuum_over_contact", "Gap over the distance of van der Waals contact"),
    (r"layered_share", "Share of the atoms in layers that no bond connects"),
    (r"dimensionality", "3 framework, 2 layers, 1 chains, 0 molecules: the largest component"),
)
_POTENTIAL = (
    (rf"feature_(\d\d){_S}", r"Feature \1 of CHGNet's last layer: {s} over the atoms"),
    (rf"site_energy_ev{_S}", "Energy of an atom over that of its element, eV: {s}"),
    (rf"moment_bohr_magneton{_S}", "Magnetic moment, µB: {s} over the atoms"),
    (rf"force_ev_per_angstrom{_S}", "Force on an atom as given, eV/Å: {s}"),
    (r"pressure_gpa", "Pressure of the cell as given, GPa"),
    (r"shear_stress_gpa", "Von Mises stress of the cell as given, GPa"),
)
_VIBRATIONS = (
    (r"bulk_modulus_gpa", "Bulk modulus at fixed fractional coordinates by CHGNet, GPa"),
    (rf"site_frequency_per_cm{_S}", "Frequency of one atom with the others fixed, 1/cm: {s}"),
    (rf"frequency_per_cm{_S}", "Frequencies at Γ by CHGNet, 1/cm, negative if unstable: {s}"),
    (rf"site_stiffness_ev_per_angstrom2{_S}", "Force constant of one atom alone, eV/Å²: {s}"),
)
_TABLES = {
    "composition": _COMPOSITION,
    "structure": _STRUCTURE,
    "slab": _SLAB,
    "potential": _POTENTIAL,
    "vibrations": _VIBRATIONS,
    "elements": ((r"([A-Z][a-z]?)", r"Share of the atoms that are \1"),),
}


def describe(names: Sequence[str]) -> dict[str, str]:
    """Return what each column means.

    Args:
        names: Columns as `blocks.compute` names them, ``block.column``.

    Returns:
        One sentence for each name, with the unit where there is one.

    Raises:
        UnknownNameError: If there is no such column.
    """
    return {name: _text(name) for name in names}


def _text(name: str) -> str:
    block, _, column = name.partition(".")
    if block == "composition":
        prefix, _, statistic = column.rpartition("_")
        if prefix in property_names() and statistic in _STATISTIC:
            return f"{_property(prefix)}: {_STATISTIC[statistic]} over the composition"
    for pattern, text in _TABLES.get(block, ()):
        match = re.fullmatch(pattern, column)
        if match:
            filled = match.expand(text)
            if "s" in match.groupdict():
                filled = filled.replace("{s}", _STATISTIC[match["s"]])
            filled = filled.replace("_", " ")
            return filled[0].upper() + filled[1:]
    raise UnknownNameError("descriptor column", name, [f"{b}.…" for b in _TABLES])


def _property(name: str) -> str:
    text = _DERIVED.get(name)
    if text is None:
        text = name.replace("_", " ") + (f", {unit(name)}" if unit(name) else "")
    return text[0].upper() + text[1:]
