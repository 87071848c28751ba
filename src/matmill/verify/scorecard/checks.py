"""Could it be read, is the geometry possible, can the composition exist?"""

import torch

from matmill.crystals.facts import density, n_elements, volume_per_atom
from matmill.verify.confidence import wilson
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number
from matmill.verify.scorecard.subject import Subject

KINDS = ("element", "metals", "neutral", "invalid")
_KIND_LABELS = {
    "element": "single element",
    "metals": "all metals",
    "neutral": "charge neutral",
    "invalid": "not neutral",
}


def checks(subject: Subject) -> Findings:
    """Return parsing, geometry, composition and what hides behind its share, and both."""
    protocol, batch = subject.protocol, subject.batch
    rule = protocol.geometry
    n_parsed, n = subject.samples.n_parsed, subject.samples.n_requested
    low, high = wilson(n_parsed, n)
    parsed = Number(
        key="parsed",
        label="a crystal could be built",
        value=n_parsed / n if n else float("nan"),
        low=low,
        high=high,
        numerator=n_parsed,
        denominator=n,
        of="requested",
        is_share=True,
    )
    kinds = subject.kinds
    is_kind = {kind: torch.tensor([k == kind for k in kinds], dtype=torch.bool) for kind in KINDS}
    if rule.rule == "radii":
        wording = f"{rule.radii_scale:g} × (0.7 Å + atomic radii)"
    else:
        images = "with" if rule.self_images else "without"
        wording = f"{rule.min_distance_a:g} Å, {images} self-images"
    composition = protocol.composition
    numbers = [
        parsed,
        subject.share(
            "geometry", f"geometric validity ({wording})", subject.is_sound, is_check=True
        ),
        subject.share(
            "geometry_radii",
            "smallest distance ≥ 0.6 of the covalent radii",
            subject.is_sound & (subject.distance_ratios >= 0.6),
            is_check=True,
        ),
        subject.share(
            "composition",
            f"compositional validity (SMACT rule, table {composition.table}"
            + (", alloys valid)" if composition.alloys else ", no alloy rule)"),
            ~is_kind["invalid"],
            is_check=True,
        ),
        *(
            subject.share(
                f"composition_{kind}",
                f"compositions: {_KIND_LABELS[kind]}",
                is_kind[kind],
                is_check=True,
            )
            for kind in KINDS
        ),
        subject.share("valid", "valid", subject.is_valid, is_check=True),
    ]
    return Findings(
        numbers=numbers,
        columns={
            "n_sites": batch.n_atoms,
            "n_elements": n_elements(batch).long(),
            "density_g_cm3": density(batch),
            "volume_per_atom_a3": volume_per_atom(batch),
            "smallest_distance_a": subject.distances,
            "smallest_distance_ratio": subject.distance_ratios,
            "composition_kind": kinds,
            "is_geometry_valid": subject.is_sound,
            "is_valid": subject.is_valid,
        },
    )
