"""Do conditioned samples hit? By what steers, by an independent judge, and by what both are worth.

    python benchmarks/judged_targets.py -n 200 --target "band_gap = 2 eV" --guidance 4

Samples of the shipped generator that were asked for the target, and as many that were asked for
nothing. Hits are counted by the predictor that ships (a graph network; it ranks and labels) and by
the judge that ships (boosted trees that learned from other crystals). Beside them: how far both
agree, and on crystals of known value that neither has seen, how many of the hits of each, and of
both together, are hits. Nothing is relaxed. Samples are kept in ``--work``.
"""

import argparse
import sys
from pathlib import Path

import torch

from generator_common import markdown, sampled, save
from matmill.campaign.aims import aims
from matmill.crystals.batch import CrystalBatch
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.quantities import find
from matmill.verify.evaluation import Against, evaluate


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--target", default="band_gap = 2 eV")
    parser.add_argument("--guidance", type=float, nargs="+", default=[4.0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("work/judged"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (aim,) = aims([arguments.target])
    generator = load_generator("flow")
    column = find(aim.name).column
    folder = arguments.work / f"{generator.hash[:10]}-{arguments.steps}-{arguments.seed}"

    def sample(name, **wishes) -> CrystalBatch:
        batch = sampled(
            generator,
            lambda _, m: GenerationRequest(n=m, n_steps=arguments.steps, **wishes),
            arguments.n,
            folder,
            name,
            seed=arguments.seed,
        )
        return batch.to(dtype=torch.float64)

    free = sample("free")
    cards = {}
    for guidance in arguments.guidance:
        name = f"{aim.name}-{aim.center:g}-{guidance:g}"
        asked = sample(name, conditions={column: aim.center}, guidance=guidance)
        cards[name] = evaluate(asked, Against(aims=(aim,), unasked=free), name=name)
    rows = []
    for name, card in cards.items():
        for number in card.groups["Targets"]:
            rows.append([name, number.label, *number.shown()[:3], number.note])
        for sign in card.signatures:
            rows.append([name, sign.name, f"{sign.value:.2f}", "", str(sign.n), str(sign.is_found)])
    print(markdown(["set", "", "value", "95 %", "out of", "note"], rows))
    report = {
        "command": " ".join(sys.argv),
        "generator": generator.hash,
        "cards": {name: card.as_dict() for name, card in cards.items()},
    }
    if arguments.out:
        save(report, arguments.out)


if __name__ == "__main__":
    main()
