"""Templates are recalled with the elements exchanged, and the similarity learns which."""

import pytest
import torch

from matmill.generate.wyckoff.encoding import canonical
from matmill.generate.wyckoff.memory import TemplateMemory, exchanges_of, skeleton, slot_order
from matmill.generate.wyckoff.memory_train import MemoryBatches, MemoryTask
from matmill.generate.wyckoff.templates import Template


def test_recall_exchanges_elements(known):
    memory = TemplateMemory.of(known, torch.zeros(len(known)))
    ((first, share), *others) = memory.recall({56: 1, 40: 1, 8: 3})
    assert not others or share > others[0][1]
    assert first.space_group == 221
    assert first.formula == {"O": 3, "Zr": 1, "Ba": 1}
    total = sum(p for _, p in memory.recall({12: 1, 8: 1}))
    assert abs(total - 1.0) < 1e-6


def test_recall_obeys_the_permitted_groups(known):
    memory = TemplateMemory.of(known, torch.zeros(len(known)))
    mask = torch.zeros(231, dtype=torch.bool)
    assert memory.recall({12: 1, 8: 1}, mask) == []
    mask[225] = True
    assert {t.space_group for t, _ in memory.recall({12: 1, 8: 1}, mask)} == {225}
    assert memory.recall({12: 7, 8: 7}) == []


def test_an_entry_recalls_itself_first(known):
    memory = TemplateMemory.of(known, torch.zeros(len(known)))
    for template in known:
        assert memory.recall(template.counts)[0][0] == canonical(template)


def test_exchanges_and_slots():
    assert slot_order({8: 3, 22: 1, 38: 1}) == ((38, 22, 8), (1, 1, 3))
    assert exchanges_of((1, 1, 3)) == ((0, 1, 2), (1, 0, 2))
    assert len(exchanges_of((1,) * 8)) == 24


def test_a_skeleton_ignores_the_origin():
    one = Template(space_group=221, letters=("a", "b", "c"), elements=(38, 22, 8))
    other = Template(space_group=221, letters=("b", "a", "d"), elements=(38, 22, 8))
    assert skeleton(one, (38, 22, 8)) == skeleton(other, (38, 22, 8))
    assert skeleton(one, (22, 38, 8)) != skeleton(one, (38, 22, 8))


def test_tensors_round_trip(known):
    memory = TemplateMemory.of(known, torch.tensor([0.0, 0.1, torch.nan, 0.0, 0.5]))
    back = TemplateMemory.from_tensors(memory.to_tensors())
    assert back.skeletons == memory.skeletons
    for template in known:
        there, here = back.recall(template.counts), memory.recall(template.counts)
        assert [t for t, _ in there] == [t for t, _ in here]


def test_the_similarity_learns_which_elements_go_together():
    # Alkali halides: rock salt with Na and K, caesium chloride with Rb and Cs.
    halides = (9, 17, 35, 53)
    templates = [
        Template(space_group=group, letters=("a", "b"), elements=(metal, x))
        for metal, group in ((11, 225), (19, 225), (37, 221), (55, 221))
        for x in halides
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = TemplateMemory.of(templates, torch.zeros(len(templates)))
    task = MemoryTask(memory)
    rng = torch.Generator().manual_seed(0)
    losses = []
    for epoch in range(25):
        for batch in MemoryBatches(memory).epoch(epoch, rng):
            loss = task.loss(batch, rng)["loss"]
            task.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in task.parameters():
                    p -= 0.05 * (p.grad if p.grad is not None else 0.0)
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    # Not counting what the entry itself says, the group follows the metal.
    rest = TemplateMemory.of(templates[:-1], torch.zeros(len(templates) - 1))
    rest.similarity = memory.similarity
    assert rest.recall({55: 1, 53: 1})[0][0].space_group == 221


def test_support_is_for_what_is_known_and_grows_with_likeness(known):
    memory = TemplateMemory.of(known, torch.zeros(len(known)))
    own, like, unlike = ({11: 1, 17: 1}, {19: 1, 17: 1}, {74: 1, 78: 1})
    assert memory.support(own) > memory.support(like) > memory.support(unlike) > 0.0
    assert memory.support({11: 7, 17: 7}) == 0.0  # no entry has seven and seven
    cubic = torch.zeros(231, dtype=torch.bool)
    cubic[221] = True
    assert memory.support(own, cubic) == 0.0
    twice = TemplateMemory.of([*known, *known], torch.zeros(2 * len(known)))
    twice.similarity.load_state_dict(memory.similarity.state_dict())
    assert twice.support(own) == pytest.approx(2.0 * memory.support(own), rel=1e-4)  # float32
