"""Are two crystals the same up to the order of elements that replace each other?

MatterGen's disordered matcher: an ordered crystal whose similar elements could as well be mixed
on their sites is not new beside the alloy, nor beside another order of the same. It goes pair by
pair through pymatgen and is meant for close looks; the scorecard's matcher is the ordered one.

Source:
    Zeni et al., A generative model for inorganic materials design (2025), and the rules of its
    program: radii within 30 %, electronegativities within 1.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Element, Structure

RADIUS_SHARE = 0.3  # of the mean of two atomic radii
ELECTRONEGATIVITY = 1.0  # Pauling
_SHARE_ABSOLUTE, _SHARE_RELATIVE = 1e-2, 1e-1  # of two compositions, one of them disordered


def replace_each_other(first: "Element", second: "Element") -> bool:
    """Return whether two elements are similar enough to share a site.

    Elements without a radius or an electronegativity replace none but themselves.
    """
    if first == second:
        return True
    radii: list[Any] = [first.atomic_radius, second.atomic_radius]
    if None in radii:
        return False
    r, s = map(float, radii)
    apart = abs(float(first.X) - float(second.X))
    return abs(r - s) / (0.5 * (r + s)) <= RADIUS_SHARE and apart <= ELECTRONEGATIVITY


def groups(structure: "Structure") -> list[frozenset["Element"]]:
    """Return the largest sets of a crystal's elements that all replace each other, none twice."""
    import networkx

    elements: list[Any] = sorted(structure.composition.elements, key=str)
    graph = networkx.Graph()
    graph.add_nodes_from(elements)
    graph.add_edges_from(
        (a, b)
        for i, a in enumerate(elements)
        for b in elements[i + 1 :]
        if replace_each_other(a, b)
    )
    cliques = sorted(networkx.find_cliques(graph), key=lambda c: (-len(c), sorted(map(str, c))))
    found: list[frozenset[Element]] = []
    used: set[Element] = set()
    for clique in cliques:
        left = frozenset(clique) - used
        if len(left) > 1:
            found.append(left)
            used |= left
    return found


def mixed(structure: "Structure") -> "Structure":
    """Return the crystal with every group of similar elements mixed evenly on all their sites."""
    alike = groups(structure)
    amounts = structure.composition
    changed = structure.copy()
    for i, site in enumerate(structure):
        for group in alike:
            share = sum(site.species[element] for element in group)
            if share:
                total = sum(amounts[element] for element in group)
                rest = {e: n for e, n in site.species.items() if e not in group}
                added = {e: share * amounts[e] / total for e in group}
                changed.replace(i, {**rest, **added})
                break
    return changed


def same_when_mixed(first: "Structure", second: "Structure") -> bool:
    """Return whether two crystals are the same, or would be with similar elements mixed.

    Only the first is mixed, so the order of the arguments can matter, as in the original.

    Args:
        first: Ordered or not; oxidation states do not count.
        second: The same.
    """
    from pymatgen.analysis.structure_matcher import OrderDisorderElementComparator, StructureMatcher

    a, b = (structure.copy().remove_oxidation_states() for structure in (first, second))
    if a.is_ordered and b.is_ordered:
        if a.composition.reduced_formula != b.composition.reduced_formula:
            return False
        if StructureMatcher(attempt_supercell=False).fit(a, b):
            return True
    elif not a.composition.fractional_composition.almost_equals(
        b.composition.fractional_composition, rtol=_SHARE_RELATIVE, atol=_SHARE_ABSOLUTE
    ):
        return False
    matcher = StructureMatcher(
        attempt_supercell=True, allow_subset=True, comparator=OrderDisorderElementComparator()
    )
    return bool(matcher.fit(mixed(a), b))
