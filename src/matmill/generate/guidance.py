"""Classifier-free guidance: exaggerate what the conditions change."""

from collections.abc import Callable

from matmill.generate.conditions import Conditions
from matmill.generate.process import Velocity
from matmill.generate.state import NoisyState

# Outside this window of clocks guidance adds noise (early) or distorts finished geometry (late).
GUIDED_FROM, GUIDED_TO = 0.1, 0.95

VelocityField = Callable[[NoisyState, float], Velocity]
Network = Callable[[NoisyState, Conditions], Velocity]


def guided(
    network: Network, base: Conditions, asked: Conditions, *, weight: float
) -> VelocityField:
    """Return a velocity field that follows ``asked`` with this weight.

    ``u = u_base + weight (u_asked - u_base)``, on velocities and on log-probabilities alike;
    weight 0 is ``base``, 1 is ``asked``.

    Source:
        Ho and Salimans, Classifier-free diffusion guidance (2022).
    """
    both = Conditions.stack([base, asked])

    def field(state: NoisyState, time: float) -> Velocity:
        if weight == 0.0:
            return network(state, base)
        if weight == 1.0 or not GUIDED_FROM < time < GUIDED_TO:
            return network(state, asked)
        double = network(state.repeated(2), both)
        sites = double.sites.chunk(2)
        lattice = double.lattice.chunk(2)
        logits = double.logits.log_softmax(-1).chunk(2)
        return Velocity(
            sites=sites[0].lerp(sites[1], weight),
            lattice=lattice[0].lerp(lattice[1], weight),
            logits=logits[0].lerp(logits[1], weight),
        )

    return field
