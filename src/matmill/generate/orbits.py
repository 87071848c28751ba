"""Space groups acting on dense states: crystals that keep their symmetry while they flow.

A state whose atoms lie on the orbits of a space group stays there when every step is averaged over
the group. Only the free directions of each orbit and the free shape of the cell are left to find.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.lattice import metric_tensor
from matmill.crystals.periodic import shortest_step, wrap
from matmill.errors import DataError
from matmill.generate.state import LatticeScale

if TYPE_CHECKING:
    from matmill.generate.wyckoff.templates import Template

_SAME_SITE = 1e-5  # in fractional units
_CHUNK = 256
MOST_OPERATIONS = 48  # of a primitive cell: the order of m-3m
_REACH = 3  # integer directions of free sites have components up to 2 in standard cells


@dataclass(frozen=True, kw_only=True)
class Orbits:
    """Symmetry of crystals of one size in their standard primitive cells.

    Operations act as ``f' = W f + w`` on column vectors.

    Attributes:
        space_group: Numbers, ``(b,)``.
        image: Atom that each operation carries an atom to, ``(b, 48, n)``; groups with fewer
            operations repeat their first one, which `weight` leaves out.
        source: Representative of each atom's orbit, ``(b, n)``.
        carry: Operation that carries the representative to the atom, ``(b, n)``.
        shift: What is added then, lattice translation included, ``(b, n, 3)``.
        basis: Free directions of each atom's representative, padded with zeros, ``(b, n, 3, 3)``:
            primitive integer vectors as rows.
        anchor: A point of the representative's position, ``(b, n, 3)``.
    """

    space_group: Int[Tensor, " b"]
    image: Int[Tensor, "b g n"]
    source: Int[Tensor, "b n"]
    carry: Int[Tensor, "b n"]
    shift: Float[Tensor, "b n 3"]
    basis: Float[Tensor, "b n 3 3"]
    anchor: Float[Tensor, "b n 3"]

    @classmethod
    def of_crystals(
        cls, batch: CrystalBatch, space_group: Int[Tensor, " b"], *, tolerance: float = 0.02
    ) -> tuple["Orbits", Tensor]:
        """Find the orbits of crystals of one size that stand in their standard primitive cells.

        Args:
            batch: Crystals as `crystals.symmetry.primitive` returns them, all of one size.
            space_group: Their numbers, ``(b,)``.
            tolerance: Largest misfit of an image in fractional units.

        Returns:
            Orbits of the crystals that the operations really map onto themselves, and which
            those are, ``(b,)`` bool.
        """
        b = len(batch)
        f = batch.frac_coords.double().reshape(b, -1, 3)
        z = batch.atomic_numbers.reshape(b, -1)
        image = torch.zeros(b, MOST_OPERATIONS, f.shape[1], dtype=torch.int64)
        fits = torch.zeros(b, dtype=torch.bool)
        for rows in torch.arange(b).split(_CHUNK):  # b × 48 × n² steps would not fit in memory
            image[rows], error = _images(space_group[rows], f[rows], z[rows])
            fits[rows] = error < tolerance
        is_onto = (image.sort(-1).values == torch.arange(f.shape[1])).all(-1).all(-1)
        fits &= is_onto
        return cls._from_images(space_group[fits], f[fits], image[fits]), fits

    @classmethod
    def of_templates(
        cls, templates: "Sequence[Template]", rng: torch.Generator
    ) -> tuple["Orbits", Int[Tensor, "b n"]]:
        """Return the orbits of templates of one size, and the elements of their atoms.

        Raises:
            DataError: If a template's sites cannot be laid out in its group.
        """
        laid = [_laid_out(template, rng) for template in templates]
        sizes = [len(z) for z, _ in laid]
        identity = torch.eye(3, dtype=torch.float64).repeat(len(laid), 1, 1)
        batch = CrystalBatch(
            lattice=identity,
            frac_coords=wrap(torch.cat([f for _, f in laid])),
            atomic_numbers=torch.cat([z for z, _ in laid]),
            n_atoms=torch.tensor(sizes),
        )
        groups = torch.tensor([template.space_group for template in templates])
        orbits, fits = cls.of_crystals(batch, groups, tolerance=_SAME_SITE)
        if not bool(fits.all()):
            bad = templates[int(torch.nonzero(~fits)[0])]
            raise DataError(
                f"The sites {bad.letters} do not fill orbits of space group {bad.space_group}."
            )
        return orbits, batch.atomic_numbers.view(len(laid), -1)

    @classmethod
    def _from_images(cls, space_group: Tensor, f: Tensor, image: Tensor) -> "Orbits":
        table = _table()
        b, n, _ = f.shape
        w, t = table.rotation[space_group], table.shift[space_group]
        # The first atom of an orbit represents it; some operation carries it to each other one.
        source = image.amin(1)
        atoms = torch.arange(n).expand(b, n)
        reached = image.gather(2, source[:, None].expand(-1, MOST_OPERATIONS, -1)) == atoms[:, None]
        carry = reached.int().argmax(1)
        rows = torch.arange(b)[:, None]
        start = f[rows, source]
        there = torch.einsum("bnij,bnj->bni", w[rows, carry], start) + t[rows, carry]
        shift = t[rows, carry] + torch.round(f - there)
        keeps = (image == atoms[:, None]) & (table.weight[space_group] > 0)[:, :, None]
        projector = torch.einsum("bgn,bgij->bnij", keeps.double(), w)
        projector = projector / keeps.sum(1)[..., None, None].clamp_min(1)
        basis = free_directions(projector)[rows, source]
        along = torch.einsum("bnkj,bnj->bnk", torch.linalg.pinv(basis).transpose(-1, -2), start)
        anchor = start - torch.einsum("bnk,bnkj->bnj", along, basis)
        return cls(
            space_group=space_group,
            image=image,
            source=source,
            carry=carry,
            shift=shift,
            basis=basis,
            anchor=anchor,
        )

    def __len__(self) -> int:
        return len(self.space_group)

    def select(self, index: Tensor) -> "Orbits":
        """Return these rows."""
        return Orbits(**{name: values[index] for name, values in vars(self).items()})

    def to(self, device: str | torch.device) -> "Orbits":
        """Return a copy on another device."""
        return Orbits(**{name: values.to(device) for name, values in vars(self).items()})

    def displacement(self, rng: torch.Generator) -> Float[Tensor, "b n 3"]:
        """Draw symmetric displacements, uniform over the torus of the free directions.

        A site that has been displaced by it is uniformly distributed over its Wyckoff position,
        and the straight line back is the shortest one in the free directions.
        """
        u = torch.rand(*self.source.shape, 3, generator=rng, dtype=torch.float64) - 0.5
        return self._carried(self._along(u.to(self.basis)))

    def start(self, rng: torch.Generator) -> Float[Tensor, "b n 3"]:
        """Draw sites uniformly over the Wyckoff positions, in [0, 1)."""
        u = torch.rand(*self.source.shape, 3, generator=rng, dtype=torch.float64).to(self.basis)
        sites = self._carried(self.anchor + self._along(u)) + self.shift
        return wrap(sites).float()

    def project_velocity(self, velocity: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Average a velocity field over the group; what is left keeps the symmetry."""
        table = _table()
        group = self.space_group
        inverse = table.inverse[group].to(velocity)
        weight = table.weight[group].to(velocity)
        b, g, n = self.image.shape
        rows = torch.arange(b, device=velocity.device)[:, None]
        images = velocity[rows, self.image.reshape(b, g * n)].view(b, g, n, 3)
        return torch.einsum("bg,bgij,bgnj->bni", weight, inverse, images)

    def project_lattice(self, y: Float[Tensor, "b 6"], scale: LatticeScale) -> Float[Tensor, "b 6"]:
        """Return the closest lattice numbers whose cell the group leaves unchanged.

        The mean is taken over the logarithm of the metric in a frame where the group is orthogonal,
        so that the volume is kept.
        """
        table = _table()
        group = self.space_group.to("cpu")
        n_atoms = torch.full((len(y),), self.source.shape[1])
        gram = metric_tensor(scale.decode(y.cpu(), n_atoms))
        root, back = table.root[group], table.back[group]
        values, vectors = torch.linalg.eigh(back @ gram @ back)
        log = vectors @ torch.diag_embed(values.clamp_min(1e-8).log()) @ vectors.transpose(1, 2)
        log = torch.einsum("bij,bj->bi", table.strain[group], log.flatten(1)).view(-1, 3, 3)
        even = root @ torch.linalg.matrix_exp(log) @ root
        cell = torch.linalg.cholesky(0.5 * (even + even.transpose(1, 2)))
        return scale.encode(cell, n_atoms).to(y)

    def _along(self, u: Tensor) -> Tensor:
        """Return the steps of all representatives, at each of their atoms."""
        rows = torch.arange(len(u), device=u.device)[:, None]
        return torch.einsum("bnk,bnkj->bnj", u[rows, self.source], self.basis)

    def _carried(self, vectors: Tensor) -> Tensor:
        """Turn what belongs to representatives into the directions of their atoms."""
        rotation = _table().rotation.to(vectors)[self.space_group]
        rows = torch.arange(len(vectors), device=vectors.device)[:, None]
        return torch.einsum("bnij,bnj->bni", rotation[rows, self.carry], vectors)


def _images(space_group: Tensor, f: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the atom nearest to each image of each atom, and the worst misfit of a crystal."""
    table = _table()
    w, t = table.rotation[space_group], table.shift[space_group]
    moved = torch.einsum("bgij,bnj->bgni", w, f) + t[:, :, None]
    misfit = shortest_step(moved[:, :, :, None], f[:, None, None]).abs().amax(-1)
    misfit = misfit.masked_fill((z[:, :, None] != z[:, None])[:, None], 2.0)
    error, image = misfit.min(-1)
    is_group = (table.weight[space_group] > 0).any(1)
    return image, torch.where(is_group, error.amax((1, 2)), 2.0)


def _laid_out(template: "Template", rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the atoms of a template at random points of its positions, in order of its orbits."""
    elements, sites = [], []
    for letter, element in zip(template.letters, template.elements, strict=True):
        anchors, bases = _sites(template.space_group, letter)
        along = torch.rand(bases.shape[1], generator=rng, dtype=torch.float64)
        sites.append(anchors + torch.einsum("k,mkj->mj", along, bases))
        elements.append(torch.full((len(anchors),), element))
    return torch.cat(elements), torch.cat(sites)


@lru_cache(maxsize=4096)
def _sites(space_group: int, letter: str) -> tuple[Tensor, Tensor]:
    """Return the sites of a Wyckoff position: points ``(m, 3)``, directions ``(m, k, 3)``."""
    from matmill.generate.wyckoff.positions import operations, positions

    position = positions(space_group)[letter]
    w, t = (x.double() for x in operations(space_group))
    basis = torch.as_tensor(position.basis, dtype=torch.float64).reshape(-1, 3)
    anchors = w @ torch.as_tensor(position.anchor, dtype=torch.float64) + t
    bases = torch.einsum("gij,kj->gki", w, basis)
    somewhere = torch.tensor([0.1370360, 0.2718282, 0.4142136], dtype=torch.float64)[: len(basis)]
    images = wrap(anchors + torch.einsum("k,gkj->gj", somewhere, bases))
    apart = shortest_step(images[:, None], images[None]).abs().amax(-1)
    first = torch.unique((apart < _SAME_SITE).int().argmax(1))
    return anchors[first], bases[first]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Operations of all space groups, row 0 unused, padded to 48 with the identity."""

    rotation: Float[Tensor, "231 48 3 3"]
    inverse: Float[Tensor, "231 48 3 3"]
    shift: Float[Tensor, "231 48 3"]
    weight: Float[Tensor, "231 48"]
    root: Float[Tensor, "231 3 3"]
    back: Float[Tensor, "231 3 3"]
    strain: Float[Tensor, "231 9 9"]


@lru_cache(maxsize=1)
def _table() -> _Table:
    from matmill.generate.wyckoff.positions import operations

    rotation = torch.eye(3, dtype=torch.float64).repeat(231, MOST_OPERATIONS, 1, 1)
    shift = torch.zeros(231, MOST_OPERATIONS, 3, dtype=torch.float64)
    weight = torch.zeros(231, MOST_OPERATIONS, dtype=torch.float64)
    for number in range(1, 231):
        w, t = operations(number)
        rotation[number, : len(w)] = w.double()
        shift[number, : len(w)] = t.double()
        weight[number, : len(w)] = 1.0 / len(w)
        # The padding repeats the first operation, so that images stay permutations.
        rotation[number, len(w) :], shift[number, len(w) :] = w[0].double(), t[0].double()
    weight[0, 0] = 1.0
    reference = torch.einsum("sg,sgji,sgjk->sik", weight, rotation, rotation)
    values, vectors = torch.linalg.eigh(reference)
    root = vectors @ torch.diag_embed(values.sqrt()) @ vectors.transpose(1, 2)
    back = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.transpose(1, 2)
    turned = root[:, None] @ rotation @ back[:, None]
    # vec(Wᵀ X W) = (Wᵀ ⊗ Wᵀ) vec(X), averaged over the group.
    strain = torch.einsum("sg,sgji,sglk->sikjl", weight, turned, turned).reshape(231, 9, 9)
    return _Table(
        rotation=rotation,
        inverse=torch.linalg.inv(rotation).round(),
        shift=shift,
        weight=weight,
        root=root,
        back=back,
        strain=strain,
    )


def free_directions(projector: Float[Tensor, "*s 3 3"]) -> Float[Tensor, "*s 3 3"]:
    """Return primitive integer vectors that span what each projector keeps, as rows.

    Any lattice vector of the kept space is an integer combination of them. Missing rows are zero.
    """
    flat = (projector.reshape(-1, 9) * 48).round().long()
    unique, which = torch.unique(flat, dim=0, return_inverse=True)
    found = np.array([_integer_basis(tuple(row)) for row in unique.tolist()]).reshape(-1, 3, 3)
    return torch.from_numpy(found)[which].to(projector).reshape(projector.shape)


@lru_cache(maxsize=4096)
def _integer_basis(scaled: tuple[int, ...]) -> np.ndarray:
    projector = np.array(scaled, dtype=float).reshape(3, 3) / 48
    rank = round(float(np.trace(projector)))
    basis = np.zeros((3, 3))
    if rank == 3:
        return np.eye(3)
    vectors = np.array(list(product(range(-_REACH, _REACH + 1), repeat=3)), dtype=float)
    kept = vectors[np.abs(vectors @ projector.T - vectors).max(1) < 1e-6]
    kept = kept[np.abs(kept).sum(1) > 0]
    # Shortest first; of v and -v the one whose first component is positive.
    kept = kept[np.lexsort((*(-kept.T[::-1]), (kept**2).sum(1)))]
    if rank >= 1:
        basis[0] = kept[0]
    if rank == 2:
        # The two shortest independent vectors of a plane lattice are a basis of it.
        basis[1] = next(v for v in kept if np.linalg.norm(np.cross(v, basis[0])) > 1e-6)
    return basis
