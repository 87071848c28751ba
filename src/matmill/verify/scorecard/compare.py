"""Scorecards side by side, and only where their numbers were made the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matmill.errors import InputError
from matmill.verify.protocols import differences
from matmill.verify.scorecard.card import Scorecard
from matmill.verify.scorecard.number import Number

_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Numbers of several scorecards.

    Attributes:
        names: Of the sets.
        protocol: Name and id that all of them share.
        counts: The four counts of each.
        rows: Heading, label, and the number of each set, None where it has none.
    """

    names: list[str]
    protocol: tuple[str, str]
    counts: list[dict[str, int]]
    rows: list[tuple[str, str, list[Number | None]]]


def compare(cards: Sequence[Scorecard]) -> Comparison:
    """Put the numbers of scorecards side by side.

    Raises:
        InputError: If they were not made by one protocol with the same reference sets, hull and
            libraries: such numbers do not belong into one column.
    """
    if len(cards) < 2:
        raise InputError("compare needs two scorecards or more.")
    first = cards[0]
    for card in cards[1:]:
        if card.basis.id != first.basis.id:
            found = differences(first.basis, card.basis)
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise InputError(
                f"'{first.name}' ({first.basis.protocol.name}, id {first.basis.id}) and "
                f"'{card.name}' ({card.basis.protocol.name}, id {card.basis.id}) were not judged "
                f"alike, so their numbers share no column: {'; '.join(found[:_SHOWN])}{more}. "
                "Evaluate both again with the same options."
            )
    labels = {
        number.key: (title, number.label)
        for card in cards
        for title, numbers in card.groups.items()
        for number in numbers
    }
    return Comparison(
        names=[card.name for card in cards],
        protocol=(first.basis.protocol.name, first.basis.id),
        counts=[card.counts for card in cards],
        rows=[
            (title, label, [card.numbers.get(key) for card in cards])
            for key, (title, label) in labels.items()
        ],
    )


def compare_files(paths: Sequence[Path]) -> Comparison:
    """Read scorecards, files or the folders that hold them, and put them side by side.

    Raises:
        DataError: If one is no scorecard.
        InputError: As `compare`.
    """
    return compare([Scorecard.read(path) for path in paths])
