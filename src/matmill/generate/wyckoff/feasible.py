"""Which compositions a space group can host: exact answers for partial choices.

A position without free coordinates holds one orbit, any other as many as wanted. Only the
multiplicities matter, so the answers are shared between groups and kept.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from matmill.generate.wyckoff.positions import N_SPACE_GROUPS, positions

Stock = tuple[tuple[int, int], ...]
"""Multiplicities of positions without freedom, each with the number that is still empty."""


@lru_cache(maxsize=N_SPACE_GROUPS)
def sites(space_group: int) -> tuple[tuple[int, bool], ...]:
    """Return multiplicity and whether there is freedom, of each position by letter."""
    return tuple((p.multiplicity, p.n_free > 0) for p in positions(space_group).values())


def hostable(space_group: int, counts: tuple[int, ...]) -> bool:
    """Tell whether a group can host these numbers of atoms per element in its primitive cell."""
    rows = sites(space_group)
    return _host(_stock(rows), _freedom(rows), tuple(sorted(counts)))


@lru_cache(maxsize=500_000)
def allowed(
    space_group: int, used: frozenset[int], counts: tuple[int, ...], last: int
) -> tuple[int, ...]:
    """Return the positions that the next orbit may take so that the crystal can be completed.

    Orbits come element by element, letters ascending within an element.

    Args:
        space_group: International number.
        used: Indices of the positions without freedom that are taken.
        counts: Atoms left to place per element; the first element is the present one.
        last: Index of the position that the present element took last, -1 for none.

    Returns:
        Indices of positions; empty if there is no completion.
    """
    rows = sites(space_group)
    found = []
    for index, (n_sites, is_free) in enumerate(rows):
        too_early = index < last or (index == last and not is_free)
        if too_early or n_sites > counts[0] or index in used:
            continue
        now = used if is_free else used | {index}
        if _completable(space_group, now, (counts[0] - n_sites, *counts[1:]), index):
            found.append(index)
    return tuple(found)


def _completable(
    space_group: int, used: frozenset[int], counts: tuple[int, ...], last: int
) -> bool:
    rows = sites(space_group)
    everywhere = [row for i, row in enumerate(rows) if i not in used]
    here = [row for i, row in enumerate(rows) if i not in used and i >= last]
    stock, others = dict(_stock(everywhere)), tuple(sorted(counts[1:]))
    freedom = _freedom(rows)
    return any(
        _host(_less(stock, taken), freedom, others)
        for taken in _ways(_stock(here), _freedom(here), counts[0])
    )


@lru_cache(maxsize=500_000)
def _host(stock: Stock, freedom: tuple[int, ...], counts: tuple[int, ...]) -> bool:
    if not counts:
        return True
    have = dict(stock)
    return any(
        _host(_less(have, taken), freedom, counts[:-1])
        for taken in _ways(stock, freedom, counts[-1])
    )


def _ways(stock: Stock, freedom: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """Yield how many sites of each kind to take so that free positions can hold the rest."""
    if not stock:
        if _payable(freedom, count):
            yield ()
        return
    (n_sites, n_left), rest = stock[0], stock[1:]
    for taken in range(min(n_left, count // n_sites) + 1):
        for others in _ways(rest, freedom, count - taken * n_sites):
            yield (*(n_sites,) * taken, *others)


@lru_cache(maxsize=50_000)
def _payable(coins: tuple[int, ...], amount: int) -> bool:
    if amount == 0:
        return True
    return any(coin <= amount and _payable(coins, amount - coin) for coin in coins)


def _less(stock: dict[int, int], taken: tuple[int, ...]) -> Stock:
    gone = Counter(taken)
    return tuple((n, k - gone[n]) for n, k in stock.items() if k > gone[n])


def _stock(rows: tuple[tuple[int, bool], ...] | list[tuple[int, bool]]) -> Stock:
    return tuple(sorted(Counter(n for n, is_free in rows if not is_free).items()))


def _freedom(rows: tuple[tuple[int, bool], ...] | list[tuple[int, bool]]) -> tuple[int, ...]:
    return tuple(sorted({n for n, is_free in rows if is_free}))


@lru_cache(maxsize=200_000)
def reachable(
    groups: tuple[int, ...], counts: tuple[int, ...], size: tuple[int, int], more: tuple[int, int]
) -> bool:
    """Tell whether a partial composition can become one that some group hosts.

    Args:
        groups: Allowed space groups.
        counts: Atoms of each element chosen so far, ascending.
        size: Smallest and largest number of atoms of the whole.
        more: Smallest and largest number of elements still to come.
    """
    total, (least, most) = sum(counts), more
    if total + least > size[1]:
        return False
    done = least == 0 and total >= size[0] and total > 0
    if done and any(hostable(g, counts) for g in groups):
        return True
    # If no further element is a must, one more is as good as several: it can take all their sites.
    if most == 0 or total >= size[1]:
        return False
    after = (max(least - 1, 0), max(most - 1, 0) if least > 1 else 0)
    return any(
        reachable(groups, tuple(sorted((*counts, n))), size, after)
        for n in range(1, size[1] - total - max(least - 1, 0) + 1)
    )
