"""Packed trees: exact structure on a hand-made case, and gradients equal to running every conversation alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from qllava.data.encode import Encoded
from qllava.data.packing import pack_samples, pack_trees
from qllava.data.trees import Tree, grow_trees, join_trees
from qllava.model.attention import AttentionKernel, tree_mask, use_kernel
from qllava.model.build import assemble
from qllava.model.checkpointing import checkpoint_layers
from qllava.model.forward import loss_sum
from qllava.model.lora import add_lora
from tests.packs import random_encoded, tensors_of
from tests.tiny import save_language_model, save_tower

IMAGE = 99


def sample(ids: list[int], mask: list[int], image: str | None = "a") -> Encoded:
    return Encoded(ids, mask, (image,) if image else (), 0)


def test_two_branches_share_their_prefix() -> None:
    first = sample([1, IMAGE, IMAGE, 5, 6, 7], [0, 0, 0, 0, 1, 1])
    second = sample([1, IMAGE, IMAGE, 8, 9], [0, 0, 0, 1, 1])  # supervised from the branch's first token
    (tree,) = grow_trees([first, second], image_token_id=IMAGE, token_budget=100)
    assert tree.input_ids.tolist() == [1, IMAGE, IMAGE, 5, 6, 7, 8, 9]
    assert tree.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 3, 4]
    assert tree.segment.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert tree.parent.tolist() == [0, 0, 0]
    assert list(zip(tree.source.tolist(), tree.target.tolist(), strict=True)) == [(3, 6), (4, 7), (2, 8), (6, 9)]
    assert (tree.images, tree.samples) == (("a",), 2)
    visible = tree_mask(torch.from_numpy(tree.segment), torch.from_numpy(tree.parent))[0, 0].int().tolist()
    assert visible == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 0, 1, 1],
    ]


def test_tokens_that_sharing_saves() -> None:
    branches = [sample([1, IMAGE, IMAGE, *range(10, 13 + i)], [0, 0, 0] + [1] * (3 + i)) for i in range(3)]
    twins = [sample([1, IMAGE, 5, 6], [0, 0, 0, 1], "b")] * 2
    alone = sample([1, 4, 5], [0, 0, 1], image=None)
    everything = [*branches, *twins, alone]
    trees = grow_trees(everything, image_token_id=IMAGE, token_budget=100)
    assert [(len(tree), tree.tokens_alone) for tree in trees] == [(9, 21), (4, 8), (3, 3)]
    assert join_trees(trees).tokens_alone == sum(len(each.input_ids) for each in everything)


@pytest.mark.parametrize("seed", range(3))
def test_packs_hold_every_sample_once_at_any_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [
        random_encoded(rng, image=image, image_token_id=350, patches=5)
        for image in [f"p{i}" for i in rng.integers(0, 12, size=30)] + [None] * 5
    ]
    wanted = sorted(t for s in samples for t, m in zip(s.input_ids, s.assistant_mask, strict=True) if m)
    for budget in (None, 1, 20, 60, 10_000):
        packs = pack_samples(samples, image_token_id=350, token_budget=budget)
        assert sum(pack.samples for pack in packs) == 35
        assert sorted(t for pack in packs for t in pack.target.tolist()) == wanted
        assert sum(pack.tokens_alone for pack in packs) == sum(len(s.input_ids) for s in samples)
        if budget is None:
            assert [pack.input_ids.tolist() for pack in packs] == [s.input_ids for s in samples]
            assert all(len(pack.parent) == 1 for pack in packs)
        else:
            assert all(len(pack) <= budget or pack.samples == 1 for pack in packs)


def test_nothing_is_shared_before_the_picture_ends() -> None:
    first = sample([1, 2, IMAGE, IMAGE, 5], [0, 0, 0, 0, 1])
    second = sample([1, 3, IMAGE, IMAGE, 5], [0, 0, 0, 0, 1])
    trees = grow_trees([first, second], image_token_id=IMAGE, token_budget=100)
    assert [tree.input_ids.tolist() for tree in trees] == [first.input_ids, second.input_ids]
    assert [tree.images for tree in trees] == [("a",), ("a",)]


def test_equal_conversations_supervise_the_prefix_twice() -> None:
    twin = sample([1, IMAGE, 5, 6], [0, 0, 0, 1])
    (tree,) = grow_trees([twin, twin], image_token_id=IMAGE, token_budget=100)
    assert tree.input_ids.tolist() == twin.input_ids
    assert list(zip(tree.source.tolist(), tree.target.tolist(), strict=True)) == [(2, 6), (2, 6)]


def test_branches_spill_and_text_only_stands_alone() -> None:
    branches = [sample([1, IMAGE, IMAGE, 10 + i, 20 + i], [0, 0, 0, 0, 1]) for i in range(3)]
    text = [sample([1, 4, 5], [0, 0, 1], image=None)] * 2
    trees = grow_trees([*branches, *text], image_token_id=IMAGE, token_budget=7)
    assert [tree.samples for tree in trees] == [2, 1, 1, 1]
    assert trees[1].input_ids.tolist() == branches[2].input_ids
    assert all(len(tree) <= 7 for tree in trees)


def test_packing_is_best_fit_and_loses_nothing() -> None:
    trees = [
        grow_trees([sample([1, IMAGE] + [i] * n, [0, 0] + [1] * n, str(i))], image_token_id=IMAGE, token_budget=99)[0]
        for i, n in enumerate([8, 3, 6, 2, 1, 30])
    ]
    packs = pack_trees(trees, token_budget=12)
    assert sorted(len(pack) for pack in packs) == [8, 10, 12, 32]
    assert all(len(pack) <= 12 or pack.samples == 1 for pack in packs)
    assert sorted(i for pack in packs for i in pack.images) == [str(i) for i in range(6)]
    assert sorted(np.concatenate([p.target for p in packs])) == sorted(np.concatenate([t.target for t in trees]))


def test_joined_trees_do_not_see_each_other() -> None:
    trees = [
        grow_trees(
            [sample([1, IMAGE, i], [0, 0, 1], str(i)), sample([1, IMAGE, i + 1, i], [0, 0, 1, 1], str(i))],
            image_token_id=IMAGE,
            token_budget=99,
        )[0]
        for i in (10, 20)
    ]
    pack = join_trees(trees)
    mask = tree_mask(torch.from_numpy(pack.segment), torch.from_numpy(pack.parent))[0, 0]
    half = len(trees[0])
    assert not mask[half:, :half].any()
    alone = tree_mask(torch.from_numpy(trees[1].segment), torch.from_numpy(trees[1].parent))[0, 0]
    assert torch.equal(mask[half:, half:], alone)


def build(folder: Path, family: str, window: int | None = None) -> LlavaForConditionalGeneration:
    """An fp32 model with everything frozen."""
    built = assemble(
        language_model=str(save_language_model(folder / "lm", family, window=window)),
        vision_tower=str(save_tower(folder / "tower")),
        projector="mlp2x_gelu",
        feature_layer=-2,
        patches="default",
        quantization="none",
        image_token_id=350,
        device="cpu",
        seed=3,
    ).float()
    built.model.vision_tower.float()
    return built


# A window of 9 tokens cuts into every conversation here; qwen2 has it in one layer of two.
@pytest.fixture(
    scope="module",
    params=[("llama", None), ("qwen2", None), ("mistral", None), ("mistral", 9), ("qwen2", 9)],
    ids=lambda case: f"{case[0]}-{case[1]}" if case[1] else case[0],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LlavaForConditionalGeneration:
    """An fp32 model in which projector and language model learn, so that every gradient is compared."""
    family, window = request.param
    built = build(tmp_path_factory.mktemp(family), family, window)
    built.model.multi_modal_projector.requires_grad_(True)
    built.model.language_model.layers.requires_grad_(True)
    return built


def gradients(model: LlavaForConditionalGeneration, packs: list[Tree]) -> tuple[float, dict[str, torch.Tensor]]:
    """Summed loss, and gradients by name."""
    model.zero_grad()
    total = torch.zeros(())
    for pack in packs:
        loss = loss_sum(model, tensors_of(pack))[0]
        loss.backward()
        total += loss.detach()
    return float(total), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def mixed_samples(rng: np.random.Generator, patches: int, *, text_only: int = 2) -> list[Encoded]:
    """1 to 5 conversations about a picture, two about a pair of pictures, and text-only ones."""
    samples = [
        random_encoded(rng, image=image, image_token_id=350, patches=patches, supervised_from_start=branch % 2 == 0)
        for branches, image in enumerate("abcde", start=1)
        for branch in range(branches)
    ]
    for _ in range(2):
        pair = random_encoded(rng, image="y", image_token_id=350, patches=patches, prefix=[5, *[350] * patches, 8])
        samples.append(Encoded(pair.input_ids, pair.assistant_mask, ("x", "y"), 0))
    return samples + [random_encoded(rng, image=None, image_token_id=350, patches=patches) for _ in range(text_only)]


def assert_same_gradients(model: LlavaForConditionalGeneration, samples: list[Encoded]) -> None:
    """The step's loss and gradients at several token budgets equal those of each conversation run alone."""
    alone = pack_samples(samples, image_token_id=350, token_budget=None)
    assert len(alone) == len(samples)
    slow_loss, slow = gradients(model, alone)
    assert slow
    for budget in (64, 150, 10_000):
        packs = pack_samples(samples, image_token_id=350, token_budget=budget)
        loss, fast = gradients(model, packs)
        assert loss == pytest.approx(slow_loss, rel=1e-5)
        assert fast.keys() == slow.keys()
        for name, gradient in slow.items():
            difference = (fast[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
            assert difference < 1e-5, (name, budget, float(difference))
    assert len(packs) == 1


@pytest.mark.parametrize("kernel", ["sdpa", "segments"])
@pytest.mark.parametrize("checkpoint_every", [None, 1, 2])
def test_packed_gradients_equal_those_of_each_conversation_alone(
    model: LlavaForConditionalGeneration, checkpoint_every: int | None, kernel: AttentionKernel
) -> None:
    model.train()
    checkpoint_layers(model, checkpoint_every)
    use_kernel(model, kernel)
    try:
        assert_same_gradients(model, mixed_samples(np.random.default_rng(4), model.config.image_seq_length))
    finally:
        checkpoint_layers(model, None)
        use_kernel(model, "sdpa")


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_each_stage_trains_the_same_at_any_budget(tmp_path: Path, stage: str) -> None:
    """With exactly what a stage trains: the projector, or LoRA (B not zero, as after a step) and the projector."""
    built = build(tmp_path, "llama")
    patches = built.config.image_seq_length
    if stage == "finetune":
        adapted = add_lora(built, rank=4, alpha=8, dropout=0.0, seed=1)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(7))
    built.model.multi_modal_projector.requires_grad_(True)
    text_only = 2 if stage == "finetune" else 0
    samples = mixed_samples(np.random.default_rng(6), patches, text_only=text_only)
    for every in (None, 1):
        checkpoint_layers(built, every)
        built.train()
        assert_same_gradients(built, samples)
    names = gradients(built, pack_samples(samples, image_token_id=350, token_budget=500))[1]
    assert len([name for name in names if ".lora_" in name]) == (28 if stage == "finetune" else 0)
    assert len([name for name in names if "multi_modal_projector" in name]) == 4


def test_the_picture_reaches_the_loss(model: LlavaForConditionalGeneration) -> None:
    rng = np.random.default_rng(0)
    sample = random_encoded(rng, image="a", image_token_id=350, patches=model.config.image_seq_length)
    other = Encoded(sample.input_ids, sample.assistant_mask, ("z",), 0)
    losses = [gradients(model, grow_trees([s], image_token_id=350, token_budget=99))[0] for s in (sample, other)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_stock_forward_gives_the_same_logits(model: LlavaForConditionalGeneration) -> None:
    """Our forward is the stock model's: same logits as calling it with pixels, one conversation, plain causal mask."""
    from qllava.model.forward import supervised_logits
    from tests.packs import pixels_of

    rng = np.random.default_rng(5)
    sample = random_encoded(rng, image="a", image_token_id=350, patches=model.config.image_seq_length)
    (tree,) = grow_trees([sample], image_token_id=350, token_budget=99)
    model.eval()
    with torch.no_grad():
        ours = supervised_logits(model, tensors_of(tree))
        stock = model(input_ids=torch.tensor([sample.input_ids]), pixel_values=pixels_of(("a",))).logits[0]
    assert torch.allclose(ours, stock[tree.source], atol=1e-4)
