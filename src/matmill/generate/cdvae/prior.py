"""The conditional prior: a small diffusion over latent vectors, told what is asked for.

One network serves all modes: where symmetry and size are hidden it is the *default* prior, where
they are given the *full* one.

Source:
    Ye et al., Con-CDVAE (2024); Ho et al., Denoising diffusion probabilistic models (2020).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from matmill.generate.adapters import AddedProperty
from matmill.generate.cdvae.conditions import ConditionEmbedding, Wishes
from matmill.generate.cdvae.settings import CdvaeSize
from matmill.generate.state import time_features
from matmill.generate.streams import Streams

N_STEPS = 300
_FIRST_BETA, _LAST_BETA = 0.001, 0.02
_N_TIME = 64
_DRAWS = 64  # attempts of one crystal lie below this; further draws of its latent beyond


class _Level(nn.Module):
    """A layer whose output is shifted by time and conditions."""

    def __init__(self, n_in: int, n_out: int, n_told: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)
        self.told = nn.Linear(n_told, n_out)
        self.out = nn.Linear(n_out, n_out)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = F.silu(self.layer(x) + self.told(told))
        return h + F.silu(self.out(F.layer_norm(h, (h.shape[-1],))))


class LatentPrior(nn.Module):
    """Guesses the noise in standardised latents: three levels down, three up, with shortcuts.

    Args:
        learnt: Statistics of the columns that are conditions.
        size: Widths.
        max_atoms: Largest cell.
    """

    def __init__(self, learnt: Sequence[AddedProperty], size: CdvaeSize, *, max_atoms: int) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(size.latent))
        self.register_buffer("latent_std", torch.ones(size.latent))
        self.conditions = ConditionEmbedding(learnt, size.condition, max_atoms=max_atoms)
        n_told = _N_TIME + size.condition
        a, b, c = size.prior
        self.down = nn.ModuleList(
            [_Level(size.latent, a, n_told), _Level(a, b, n_told), _Level(b, c, n_told)]
        )
        self.up = nn.ModuleList(
            [_Level(c + c, b, n_told), _Level(b + b, a, n_told), _Level(a + a, a, n_told)]
        )
        self.out = nn.Linear(a + size.latent, size.latent)

    def told(self, wishes: Wishes) -> Float[Tensor, "b d"]:
        """Return the vector of what is asked for."""
        return self.conditions(wishes)

    def forward(
        self, x: Float[Tensor, "b k"], step: Tensor, told: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b k"]:
        """Return the noise in ``x`` at steps 0 to `N_STEPS` - 1."""
        clock = time_features((step.float() + 1) / N_STEPS, _N_TIME // 2)
        told = torch.cat([clock, told], dim=1)
        h, kept = x, []
        for level in self.down:
            h = level(h, told)
            kept.append(h)
        for level in self.up:
            h = level(torch.cat([h, kept.pop()], dim=1), told)
        return self.out(torch.cat([h, x], dim=1))

    def fit_scale(self, mean: Float[Tensor, "n k"], log_variance: Float[Tensor, "n k"]) -> None:
        """Measure centre and spread of the latents of the training crystals."""
        spread = (mean.var(0, unbiased=False) + log_variance.exp().mean(0)).sqrt()
        for name, value in (("latent_mean", mean.mean(0)), ("latent_std", spread)):
            getattr(self, name).copy_(value)

    def standard(self, latent: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Return standardised latents."""
        return (latent - self.latent_mean) / self.latent_std  # pyright: ignore[reportOperatorIssue]

    def latent(self, standard: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Return latents of standardised ones."""
        return standard * self.latent_std + self.latent_mean  # pyright: ignore[reportOperatorIssue]


def kept_share(device: torch.device | str = "cpu") -> Float[Tensor, " t"]:
    """Return the share of the signal's variance that is left after each step."""
    beta = torch.linspace(_FIRST_BETA, _LAST_BETA, N_STEPS, device=device)
    return (1 - beta).cumprod(0)


@torch.no_grad()
def sample_latents(
    prior: LatentPrior, wishes: Wishes, streams: Streams, *, draw: int = 0
) -> Float[Tensor, "b k"]:
    """Draw one latent for each row of ``wishes``, from the crystals' own streams.

    Args:
        prior: The network.
        wishes: What each is asked for.
        streams: Of the same crystals.
        draw: Number of this draw, when several are made of each.
    """
    n = prior.latent_mean.numel()  # pyright: ignore[reportCallIssue]
    device = next(prior.parameters()).device
    noise = gaussian(streams, (N_STEPS, n), draw=draw).to(device)
    kept = kept_share(device)
    told = prior.told(wishes.to(device))
    x = noise[:, -1]
    for t in reversed(range(N_STEPS)):
        before = kept[t - 1] if t else torch.ones((), device=device)
        alpha = kept[t] / before
        guess = prior(x, torch.full((len(x),), t, device=device), told)
        x = (x - (1 - alpha) / (1 - kept[t]).sqrt() * guess) / alpha.sqrt()
        if t:
            spread = ((1 - before) / (1 - kept[t]) * (1 - alpha)).sqrt()
            x = x + spread * noise[:, t - 1]
    return prior.latent(x)


def gaussian(streams: Streams, shape: tuple[int, ...], *, draw: int = 0) -> Tensor:
    """Return standard normal numbers, ``(b, *shape)``, each row from a stream of its own."""
    count = int(torch.tensor(shape).prod())
    own = (
        streams
        if not draw
        else Streams(
            seed=streams.seed, crystal=streams.crystal, attempt=streams.attempt + _DRAWS * draw
        )
    )
    return torch.special.ndtri(own.uniform("latent", count)).reshape(-1, *shape)


@dataclass(frozen=True, kw_only=True)
class LatentRows:
    """Gaussians over the latents of some crystals, and what is known of them."""

    mean: Float[Tensor, "b k"]
    log_variance: Float[Tensor, "b k"]
    known: Wishes

    def select(self, rows: Tensor) -> "LatentRows":
        """Return these rows."""
        return LatentRows(
            mean=self.mean[rows],
            log_variance=self.log_variance[rows],
            known=self.known.select(rows),
        )

    def to(self, device: str | torch.device) -> "LatentRows":
        """Return a copy on another device."""
        return LatentRows(
            mean=self.mean.to(device),
            log_variance=self.log_variance.to(device),
            known=self.known.to(device),
        )


class LatentSet:
    """Latents of the training crystals, in shuffled batches.

    Args:
        rows: All of them.
        batch_size: Rows a batch.
    """

    def __init__(self, rows: LatentRows, *, batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.repeats = max(1, -(-8 * batch_size // max(len(rows.mean), 1)))

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[LatentRows]:
        """Yield every row equally often, in random order."""
        del number  # the order comes from the generator alone
        n = len(self.rows.mean)
        order = torch.cat([torch.randperm(n, generator=rng) for _ in range(self.repeats)])
        for part in order.split(self.batch_size):
            yield self.rows.select(part)


class PriorTask(nn.Module):
    """Holds the prior and knows its loss.

    Args:
        prior: The network to train.
        hide: Chance that one condition is hidden.
        hide_extras: Chance that symmetry and size are hidden.
    """

    def __init__(self, prior: LatentPrior, *, hide: float, hide_extras: float) -> None:
        super().__init__()
        self.prior, self.hide, self.hide_extras = prior, hide, hide_extras

    def loss(self, batch: LatentRows, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the squared error of the guessed noise at random steps."""
        b, device = len(batch.mean), batch.mean.device
        noise = torch.randn(2, *batch.mean.shape, generator=rng, device=device)
        latent = batch.mean + (0.5 * batch.log_variance).exp() * noise[0]
        step = torch.randint(N_STEPS, (b,), generator=rng, device=device)
        hidden = torch.rand(b, generator=rng, device=device) < self.hide_extras
        shown = batch.known.without_extras(hidden).with_hidden(self.hide, rng)
        kept = kept_share(device)[step][:, None]
        x = kept.sqrt() * self.prior.standard(latent) + (1 - kept).sqrt() * noise[1]
        guess = self.prior(x, step, self.prior.told(shown))
        return {"loss": (guess.float() - noise[1]).square().mean()}
