"""What samples were asked for, with the two predictors that say whether they are."""

from collections.abc import Sequence

from matmill.campaign.targets import Goal, Target, check_together, parse_target
from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError, UnknownNameError
from matmill.predict.judges import check_independent, load_judge
from matmill.predict.protocol import Predictor, load_predictor
from matmill.verify.judging import Aim, Judge, Known, Opinion


def aims(
    targets: Sequence[str], *, judges: Sequence[str] = (), steering: Sequence[str] = ()
) -> list[Aim]:
    """Return what to judge.

    Args:
        targets: As people write them, ``"band_gap = 2 eV"``.
        judges: A property or a predictor's file each; the judges that ship unless given.
        steering: The same of what steered or ranked; the predictors that ship unless given.

    Raises:
        InputError: If a target cannot be read, has no range to hit, or its judge is what steers.
        UnknownNameError: If no predictor or judge is there for a property.
        DataError: If a file is missing or damaged.
    """
    wanted = [parse_target(text) for text in targets]
    check_together(tuple(wanted))
    if (judges or steering) and not wanted:
        raise InputError("--judge and --steering need --target: what is to be judged.")
    given_judges = [load_judge(name) for name in judges]
    given_steering = [load_predictor(name) for name in steering]
    found = [_aim(target, given_judges, given_steering) for target in wanted]
    for kind, given in (("--judge", [j for j, _ in given_judges]), ("--steering", given_steering)):
        idle = {p.column for p in given} - {target.column for target in wanted}
        if idle:
            raise InputError(f"{kind} predicts {', '.join(sorted(idle))}, but no target is of it.")
    return found


def _aim(
    target: Target, judges: Sequence[tuple[Predictor, dict]], steering: Sequence[Predictor]
) -> Aim:
    name = target.quantity.name
    if target.goal in (Goal.MAXIMISE, Goal.MINIMISE):
        raise InputError(f"'{target.text}' has no range to hit: give a value or bounds.")
    if target.quantity.exact:
        raise InputError(f"{name} is read off the crystal: no predictor has to judge it.")
    mine = next((p for p in steering if p.column == target.column), None)
    mine = mine or load_predictor(name)
    given = next((pair for pair in judges if pair[0].column == target.column), None)
    try:
        judge, known = given or load_judge(name)
    except UnknownNameError as error:
        raise InputError(f"{error} Give --judge FILE of a predictor of {name}.") from error
    check_independent(mine, judge)
    # What the file says of known crystals holds for the predictor that it was measured with.
    ours = mine.card.get("weights_sha256", "")[:16]
    is_measured = bool(known) and judge.card.get("disjoint_from") == ours
    return Aim(
        name=name,
        text=target.text,
        unit=target.quantity.unit,
        low=target.low,
        high=target.high,
        value=target.value,
        steering=_judge(mine),
        judge=_judge(judge),
        known=Known(
            truth=known["truth"],
            steering=known["steering"],
            judge=known["judge"],
            judge_coverage=judge.card.get("agreement", {}).get("judge_interval_coverage"),
        )
        if is_measured
        else None,
    )


def _judge(predictor: Predictor) -> Judge:
    def look(batch: CrystalBatch) -> Opinion:
        said = predictor.predict(batch)
        return Opinion(
            mean=said.mean.double(), std=said.std.double(), in_domain=said.in_domain.bool()
        )

    card = predictor.card
    kind = str(card.get("kind", "predictor")).removeprefix("matmill ")
    return Judge(name=f"{kind} {card.get('weights_sha256', '')[:8]}".strip(), look=look)
