"""Random numbers that depend on a crystal's own place only."""

import torch

from matmill.generate.streams import Streams


def streams(seed=0, n=8):
    return Streams.of(torch.Generator().manual_seed(seed), n)


def test_numbers_do_not_depend_on_what_is_beside_a_crystal():
    whole = streams(n=8).uniform("sample", 40)
    alone = streams(n=8).select(torch.tensor([5])).uniform("sample", 40)
    fewer = streams(n=6).uniform("sample", 12)
    assert torch.equal(whole[5], alone[0])
    assert torch.equal(whole[:6, :12], fewer)


def test_seeds_crystals_attempts_and_purposes_have_nothing_in_common():
    rows = [
        streams().uniform("sample", 64),
        streams(seed=1).uniform("sample", 64),
        streams().at_attempt(1).uniform("sample", 64),
        streams().uniform("plan", 64),
        streams().of_run().uniform("plan", 64),
    ]
    flat = torch.cat(rows)
    assert len(torch.unique(flat, dim=0)) == len(flat)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    # 33 rows of 64 numbers: independent ones correlate by 1/8, rarely by four times that.
    assert correlation.abs().max() < 0.6


def test_numbers_are_uniform_and_never_zero_or_one():
    u = streams(n=50).uniform("sample", 4000)
    assert u.dtype == torch.float32
    assert u.min() > 0.0
    assert u.max() < 1.0
    counts = torch.histc(u, bins=20, min=0.0, max=1.0)
    # A share of 1/20 of 200 000 numbers: 10 000 ± 97.
    assert (counts - 10_000).abs().max() < 500


def test_generators_of_crystals_differ_and_repeat():
    first, again = (streams().generator(3) for _ in range(2))
    other = streams().generator(4)
    a, b, c = (torch.rand(5, generator=g) for g in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
