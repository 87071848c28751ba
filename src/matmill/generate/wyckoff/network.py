"""The transformer of the Wyckoff model: compositions, space groups and orbits, one after another.

A template is written as elements with counts, electropositive first, then the space group, then
the orbits, element by element and letters ascending. Two passes share all weights. In the first,
elements see only what stands before them: it draws compositions. In the second the composition is
given and seen whole: it draws the group and the orbits.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.config import Settings
from matmill.crystals.elements import SYMBOLS
from matmill.generate.wyckoff import vocabulary
from matmill.generate.wyckoff.encoding import TemplateBatch, remaining
from matmill.generate.wyckoff.positions import N_SPACE_GROUPS
from matmill.generate.wyckoff.vocabulary import MAX_ATOMS, N_LETTERS

END = 0
"""Index of "no further element" among the elements."""

_HULL_CENTRES = (-0.05, 0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)


class WyckoffSettings(Settings):
    """Size of the network.

    Attributes:
        width: Features of a token.
        depth: Blocks.
        heads: Attention heads.
        widening: Inner width of a block's perceptron, in units of ``width``.
        dropout: Share of features dropped in training.
    """

    width: int = 96
    depth: int = 2
    heads: int = 4
    widening: int = 3
    dropout: float = 0.05


class WyckoffNetwork(nn.Module):
    """Logits of the next element, count, group and position."""

    element_table: Tensor
    group_table: Tensor
    position_table: Tensor
    n_sites: Tensor
    n_free: Tensor

    def __init__(self, settings: WyckoffSettings) -> None:
        super().__init__()
        d = settings.width
        self.settings = settings
        for name in ("element", "group", "position"):
            table = getattr(vocabulary, f"{name}_features")()
            self.register_buffer(f"{name}_table", table, persistent=False)
        self.register_buffer("n_sites", vocabulary.multiplicities(), persistent=False)
        self.register_buffer("n_free", vocabulary.free_dimensions(), persistent=False)
        self.element = nn.Embedding(len(SYMBOLS), d)
        self.element_map = nn.Linear(self.element_table.shape[-1], d)
        self.count = nn.Embedding(MAX_ATOMS + 1, d)
        self.share = nn.Linear(1, d)
        self.left = nn.Embedding(MAX_ATOMS + 1, d)
        self.group = nn.Embedding(N_SPACE_GROUPS + 1, d)
        self.group_map = nn.Linear(self.group_table.shape[-1], d)
        self.position = nn.Embedding((N_SPACE_GROUPS + 1) * N_LETTERS, 24)
        self.position_map = nn.Linear(self.position_table.shape[-1] + 24, d)
        self.size = nn.Embedding(MAX_ATOMS + 1, d)
        self.hull = nn.Linear(len(_HULL_CENTRES) + 1, d)
        self.asked_group = nn.Embedding(N_SPACE_GROUPS + 1, d)
        self.asked_system = nn.Embedding(8, d)
        self.kind = nn.Embedding(5, d)  # start of either pass, element, group, orbit
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(d)
        self.to_element = nn.Linear(d, len(SYMBOLS))
        self.to_count = nn.Sequential(nn.Linear(2 * d, d), nn.SiLU(), nn.Linear(d, MAX_ATOMS + 1))
        self.to_group = nn.Linear(d, d)
        self.group_bias = nn.Parameter(torch.zeros(N_SPACE_GROUPS + 1))
        self.to_position = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.3)

    def elements(self, z: Int[Tensor, "*s"]) -> Float[Tensor, "*s d"]:
        """Return the vectors of elements."""
        return self.element(z) + self.element_map(self.element_table[z])

    def groups(self) -> Float[Tensor, "231 d"]:
        """Return the vectors of the space groups."""
        return self.group.weight + self.group_map(self.group_table)

    def positions(self, space_group: Int[Tensor, " b"]) -> Float[Tensor, "b 27 d"]:
        """Return the vectors of the positions of each group."""
        own = self.position.weight.view(N_SPACE_GROUPS + 1, N_LETTERS, -1)[space_group]
        return self.position_map(torch.cat([self.position_table[space_group], own], dim=-1))

    def composition(
        self,
        batch: TemplateBatch,
        *,
        size: Int[Tensor, " b"],
        space_group: Int[Tensor, " b"],
        system: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b k+1 119"], Float[Tensor, "b k+1 d"]]:
        """Return logits of the element after each prefix of elements, and the hidden state.

        Args:
            batch: Elements, counts and hull distances are read.
            size: Number of atoms asked for, 0 for any.
            space_group: Space group asked for, 0 for any.
            system: Crystal system asked for, 0 for any.
        """
        start = self.size(size) + self.asked_group(space_group) + self.asked_system(system)
        start = start + self.kind.weight[0] + self._hull(batch.hull)
        tokens = torch.cat([start[:, None], self._element_tokens(batch, share=False)], dim=1)
        n = tokens.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
        there = torch.cat([torch.ones_like(size[:, None], dtype=torch.bool), batch.elements > 0], 1)
        hidden = self._trunk(tokens, causal[None] & there[:, None, :])
        return self.to_element(hidden), hidden

    def counts(self, hidden: Float[Tensor, "*s d"], z: Int[Tensor, "*s"]) -> Float[Tensor, "*s 21"]:
        """Return logits of the number of atoms of the next element, once it is known."""
        logits = self.to_count(torch.cat([hidden, self.elements(z)], dim=-1))
        return logits.masked_fill(_at_zero(logits), -torch.inf)

    def template(
        self, batch: TemplateBatch
    ) -> tuple[Float[Tensor, "b 231"], Float[Tensor, "b m+1 27"]]:
        """Return logits of the group and of the position of each orbit, composition given.

        The last row of positions is that of the orbit after the ones in the batch. Positions that
        the order of the orbits, the number of atoms left or an earlier orbit rules out are -inf.
        """
        k = batch.elements.shape[1]
        n_atoms = batch.counts.sum(1)
        start = self.size(n_atoms) + self.kind.weight[1] + self._hull(batch.hull)
        elements = self.elements(batch.elements)
        slots, left = remaining(batch)
        upcoming = elements.gather(1, slots[..., None].expand(-1, -1, elements.shape[-1]))
        upcoming = upcoming + self.left(left)
        positions = self.positions(batch.space_group)
        taken = batch.letters.clamp_min(0)[..., None].expand(-1, -1, positions.shape[-1])
        placed = elements.gather(1, batch.slots.clamp_min(0)[..., None].expand_as(taken))
        orbits = positions.gather(1, taken) + placed + self.kind.weight[4]
        group = self.groups()[batch.space_group] + self.kind.weight[3]
        steps = torch.cat([group[:, None], orbits], dim=1) + upcoming
        tokens = torch.cat([start[:, None], self._element_tokens(batch, share=True), steps], dim=1)
        hidden = self._trunk(tokens, _template_mask(batch))
        groups = self.to_group(hidden[:, 0]) @ self.groups().T * self._scale + self.group_bias
        query = self.to_position(hidden[:, k + 1 :])
        logits = torch.einsum("bmd,bpd->bmp", query, positions) * self._scale
        return (
            groups.masked_fill(_at_zero(groups), -torch.inf),
            logits.masked_fill(~self.possible(batch, left), -torch.inf),
        )

    def possible(
        self, batch: TemplateBatch, left: Int[Tensor, "b m+1"]
    ) -> Bool[Tensor, "b m+1 27"]:
        """Return the positions that order, number of atoms left and earlier orbits permit."""
        n_sites = self.n_sites[batch.space_group][:, None]
        fixed = self.n_free[batch.space_group] == 0
        index = torch.arange(N_LETTERS, device=left.device)
        at = functional.one_hot(batch.letters.clamp_min(0), N_LETTERS).bool()
        at = at & (batch.letters >= 0)[..., None]
        used = functional.pad(at.cumsum(1) > 0, (0, 0, 1, 0)) & fixed[:, None]
        slots, _ = remaining(batch)
        before = functional.pad(batch.letters, (1, 0), value=-1)
        same = functional.pad(batch.slots, (1, 0), value=-1) == slots
        late = index >= torch.where(same, before, -1)[..., None]
        return (n_sites > 0) & (n_sites <= left[..., None]) & ~used & late

    @property
    def _scale(self) -> float:
        return self.settings.width**-0.5

    def _element_tokens(self, batch: TemplateBatch, *, share: bool) -> Float[Tensor, "b k d"]:
        tokens = self.elements(batch.elements) + self.count(batch.counts) + self.kind.weight[2]
        if share:  # the total is not known while a composition is being drawn
            part = batch.counts / batch.counts.sum(1, keepdim=True).clamp_min(1)
            tokens = tokens + self.share(part[..., None].to(tokens.dtype))
        return tokens

    def _hull(self, hull: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        centres = torch.tensor(_HULL_CENTRES, device=hull.device)
        value = hull.nan_to_num(0.0).clamp(-0.1, 1.2)[:, None]
        width = 0.03 + 0.4 * centres.clamp_min(0.0)
        bumps = torch.exp(-(((value - centres) / width) ** 2))
        known = torch.isfinite(hull).float()[:, None]
        return self.hull(torch.cat([bumps * known, known], dim=1))

    def _trunk(self, tokens: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t t"]) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, mask[:, None])
        return self.norm(tokens)


class _Block(nn.Module):
    def __init__(self, settings: WyckoffSettings) -> None:
        super().__init__()
        d, self.n_heads = settings.width, settings.heads
        self.norm_one, self.norm_two = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.inner = nn.Sequential(
            nn.Linear(d, settings.widening * d), nn.SiLU(), nn.Linear(settings.widening * d, d)
        )
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b 1 t t"]) -> Tensor:
        b, t, d = x.shape
        qkv = self.qkv(self.norm_one(x)).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv, attn_mask=mask)
        x = x + self.drop(self.out(mixed.transpose(1, 2).reshape(b, t, d)))
        return x + self.drop(self.inner(self.norm_two(x)))


def _template_mask(batch: TemplateBatch) -> Bool[Tensor, "b t t"]:
    """Return who sees whom: the composition whole, the rest what stands before it."""
    b, k = batch.elements.shape
    m = batch.letters.shape[1]
    n = k + m + 2
    mask = torch.ones(n, n, dtype=torch.bool, device=batch.elements.device).tril()
    mask[: k + 1, : k + 1] = True
    always = torch.ones(b, 1, dtype=torch.bool, device=mask.device)
    there = torch.cat([always, batch.elements > 0, always, batch.letters >= 0], dim=1)
    # Padding sees itself, so that its rows stay finite.
    own = torch.eye(n, dtype=torch.bool, device=mask.device)
    return (mask[None] & there[:, None, :]) | own


def _at_zero(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[-1], device=logits.device) == 0
