"""What a group can host, against all possibilities written out."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.generate.wyckoff.feasible import allowed, hostable, reachable, sites

GROUPS = st.sampled_from([1, 2, 5, 12, 47, 62, 82, 123, 141, 166, 194, 216, 221, 225, 227, 230])


def by_hand(space_group, counts):
    """Try every way to place the atoms, orbit by orbit."""
    rows = sites(space_group)

    @cache
    def place(used, left):
        if not any(left):
            return True
        k = next(i for i, n in enumerate(left) if n)
        for i, (n_sites, is_free) in enumerate(rows):
            if n_sites <= left[k] and (is_free or i not in used):
                rest = (*left[:k], left[k] - n_sites, *left[k + 1 :])
                if place(used if is_free else used | {i}, rest):
                    return True
        return False

    return place(frozenset(), counts)


@settings(max_examples=80, deadline=None)
@given(GROUPS, st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_hostable_agrees_with_trying_everything(space_group, counts):
    assert hostable(space_group, tuple(sorted(counts))) == by_hand(space_group, tuple(counts))


@settings(max_examples=80, deadline=None)
@given(GROUPS, st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 10**6))
def test_following_the_options_never_ends_in_a_dead_end(space_group, counts, choice):
    left, used, last = tuple(counts), frozenset(), -1
    possible = hostable(space_group, tuple(sorted(counts)))
    assert bool(allowed(space_group, used, left, last)) == possible
    while possible and left:
        options = allowed(space_group, used, left, last)
        assert options
        last = options[choice % len(options)]
        n_sites, is_free = sites(space_group)[last]
        used = used if is_free else used | {last}
        rest = left[0] - n_sites
        left, last = ((rest, *left[1:]), last) if rest else (left[1:], -1)


@settings(max_examples=40, deadline=None)
@given(
    GROUPS,
    st.tuples(st.integers(1, 6), st.integers(0, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
)
def test_reachable_agrees_with_listing_compositions(space_group, size, more):
    low, high = size[0], size[0] + size[1]
    least, most = more[0], more[0] + more[1]

    def grown(counts, n):
        if n == 0:
            yield counts
            return
        for extra in range(1, high - sum(counts) + 1):
            yield from grown((*counts, extra), n - 1)

    listed = any(
        low <= sum(c) <= high and hostable(space_group, tuple(sorted(c)))
        for n in range(least, most + 1)
        for c in grown((), n)
        if c
    )
    assert reachable((space_group,), (), (low, high), (least, most)) == listed
