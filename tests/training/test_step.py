"""Branch-wise training gives the numbers of the baseline loop, and the same bytes for the same seed."""

import copy
import time

import pytest
import torch
from torch.nn.functional import cross_entropy

from lrec.model.ensemble import Ensemble
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer, _OrderedSum


def trainer(ensemble: Ensemble, learning_rate: float, branches_at_once: int = 1, **options) -> Trainer:
    """A trainer on the CPU with a learning rate."""
    made = Trainer(ensemble, Recipe(epochs=1, **options), branches_at_once=branches_at_once)
    made.set_learning_rate(learning_rate)
    return made


def baseline_step(ensemble: Ensemble, optimizer: torch.optim.Optimizer, images, targets) -> torch.Tensor:
    """The baseline loop: all branches forward, one loss, one backward, one optimiser."""
    logits = ensemble(images)
    losses = torch.stack([cross_entropy(logits[:, m], targets[m]) for m in range(len(targets))])
    optimizer.zero_grad()
    losses.mean().backward()
    optimizer.step()
    return losses.detach()


def test_steps_equal_the_baseline_loop():
    """In float64, where Adam does not blow rounding up to the size of a step."""
    generator = torch.Generator().manual_seed(0)
    baseline = Ensemble("resnet18", 3, 4).double().to(memory_format=torch.channels_last).train()
    branchwise = trainer(copy.deepcopy(baseline), 1e-3)
    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-3, fused=True)
    for _ in range(4):
        images = torch.randn(6, 3, 32, 32, generator=generator).double().to(memory_format=torch.channels_last)
        targets = torch.randint(0, 4, (3, 6), generator=generator)
        expected = baseline_step(baseline, optimizer, images, targets)
        losses, _ = branchwise.step(images, targets)
        torch.testing.assert_close(losses, expected, rtol=1e-7, atol=1e-9)
    for (name, one), other in zip(baseline.state_dict().items(), branchwise.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


def test_gradients_equal_the_baseline_loops():
    """With plain gradient descent in place of Adam the weights show the gradients themselves."""
    baseline = Ensemble("resnet18", 3, 4).double().to(memory_format=torch.channels_last).train()
    branchwise = Trainer(copy.deepcopy(baseline), Recipe(epochs=1))
    parts = {"stem": branchwise.model.stem} | {str(m): branch for m, branch in enumerate(branchwise.model.branches)}
    branchwise.optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in parts.items()}
    images = torch.randn(6, 3, 32, 32).double().to(memory_format=torch.channels_last)
    targets = torch.randint(0, 4, (3, 6))
    baseline_step(baseline, torch.optim.SGD(baseline.parameters(), lr=0.1), images, targets)
    branchwise.step(images, targets)
    for (name, one), other in zip(baseline.named_parameters(), branchwise.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_counts_of_right_answers():
    counting = trainer(Ensemble("resnet18", 2, 3).train(), 1e-9)
    images = torch.randn(9, 3, 32, 32)
    with torch.no_grad():
        answers = copy.deepcopy(counting.model)(images).argmax(2).T
    _, right = counting.step(images, answers)
    assert right.tolist() == [9, 9]


def test_only_one_branch_has_gradients_at_a_time():
    branchwise = trainer(Ensemble("resnet18", 3, 4).train(), 1e-3)
    seen = []

    def look(*_) -> None:
        seen.append(sum(p.grad is not None for p in branchwise.model.parameters()))

    for branch in branchwise.model.branches:
        branch.register_forward_hook(look)
    branchwise.step(torch.randn(4, 3, 32, 32), torch.zeros(3, 4, dtype=torch.int64))
    assert seen == [0, 0, 0]
    assert all(p.grad is None for p in branchwise.model.parameters())


MORE = {"accumulate": 2, "freeze_batch_norm": True, "label_smoothing": 0.1}


@pytest.mark.parametrize("options", [{}, pytest.param(MORE, marks=pytest.mark.slow)])
def test_branches_at_once_equal_branches_one_by_one(options: dict, two_threads: None):
    one = trainer(Ensemble("resnet18", 5, 4).double(), 1e-3, **options)
    two = trainer(copy.deepcopy(one.model), 1e-3, branches_at_once=4, **options)
    assert (one.threads, two.threads) == (1, 2)
    for some in (one, two):
        some.start_epoch()
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(6, 3, 32, 32, generator=generator).double()
        targets = torch.randint(0, 4, (5, 6), generator=generator)
        (expected, right), (losses, counted) = one.step(images, targets), two.step(images, targets)
        torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(counted, right)
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=name)
    assert torch.get_num_threads() == 2


def test_branches_at_once_repeat_their_bytes_whichever_is_first(two_threads: None):
    """The stem's gradient is a sum over branches; here the first branches come last."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(6, 3, 32, 32, generator=generator), torch.randint(0, 4, (4, 6), generator=generator)
    start, ends = Ensemble("resnet18", 4, 4), []
    for held in (None, 0, 1):
        some = trainer(copy.deepcopy(start), 1e-3, branches_at_once=2)
        some.start_epoch()
        if held is not None:
            some.model.branches[held].register_forward_hook(lambda *_: time.sleep(0.5))
        some.step(images, targets)
        ends.append(some.model.state_dict())
    assert all(torch.equal(ends[0][key], end[key]) for end in ends[1:] for key in end)


def test_an_error_in_a_branch_ends_the_step(two_threads: None):
    broken = trainer(Ensemble("resnet18", 4, 4), 1e-3, branches_at_once=2)
    broken.model.branches[1].classifier = torch.nn.Linear(3, 4)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        broken.step(torch.randn(4, 3, 32, 32), torch.zeros(4, 4, dtype=torch.int64))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("options", [{"compile": True}, {"parallel": "data"}])
def test_what_must_come_in_order_is_taken_one_by_one(options: dict, two_threads: None, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "job", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert trainer(Ensemble("resnet18", 4, 4), 1e-3, branches_at_once=2).threads == 2
    assert trainer(Ensemble("resnet18", 4, 4), 1e-3, branches_at_once=2, **options).threads == 1


def test_accumulated_batches_equal_one_large_batch():
    """With batch norm frozen, where a batch's images do not see each other."""
    whole = Ensemble("resnet18", 2, 4).double()
    parts = copy.deepcopy(whole)
    images, targets = torch.randn(6, 3, 32, 32).double(), torch.randint(0, 4, (2, 6))
    for ensemble, count in ((whole, 1), (parts, 3)):
        steps = trainer(ensemble, 1e-3, freeze_batch_norm=True, accumulate=count)
        steps.start_epoch()
        for number in range(count):
            some = slice(number * 6 // count, (number + 1) * 6 // count)
            steps.step(images[some], targets[:, some])
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


def test_a_last_group_of_fewer_batches_has_their_mean_gradient():
    """Seen in Adam's first moment, since its steps do not depend on the scale of a gradient."""
    images, targets = torch.randn(4, 3, 32, 32), torch.randint(0, 4, (2, 4))
    moments = []
    for accumulate, together in ((1, None), (4, 1)):
        torch.manual_seed(0)
        steps = trainer(Ensemble("resnet18", 2, 4), 1e-3, freeze_batch_norm=True, accumulate=accumulate)
        steps.start_epoch()
        steps.step(images, targets, together)
        assert steps.steps == 1
        moments.append([value["exp_avg"] for value in steps.optimizers["stem"].state.values()])
    for one, other in zip(*moments, strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_weights():
    frozen = trainer(Ensemble("resnet18", 1, 4), 1e-3, freeze_batch_norm=True)
    frozen.start_epoch()
    before = copy.deepcopy(frozen.model.state_dict())
    frozen.step(torch.randn(4, 3, 32, 32), torch.zeros(1, 4, dtype=torch.int64))
    after = frozen.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "running" in key)
    assert not torch.equal(before["stem.bn1.weight"], after["stem.bn1.weight"])


@pytest.mark.parametrize("share", ["none", "maxpool", "layer3", "layer4"])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_every_share_trains_as_the_baseline_loop(share: str, backbone: str):
    baseline = Ensemble(backbone, 2, 4, share=share).double().to(memory_format=torch.channels_last).train()
    branchwise = trainer(copy.deepcopy(baseline), 1e-3)
    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-3, fused=True)
    images = torch.randn(6, 3, 32, 32).double().to(memory_format=torch.channels_last)
    targets = torch.randint(0, 4, (2, 6))
    expected = baseline_step(baseline, optimizer, images, targets)
    losses, _ = branchwise.step(images, targets)
    torch.testing.assert_close(losses, expected, rtol=1e-7, atol=1e-9)
    for (name, one), other in zip(baseline.state_dict().items(), branchwise.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_steps_equal_eager_ones_and_branches_share_the_kernels():
    eager = trainer(Ensemble("resnet18", 3, 4), 1e-3)
    compiled = trainer(copy.deepcopy(eager.model), 1e-3, compile=True)
    torch._dynamo.reset()
    images, targets = torch.randn(4, 3, 32, 32), torch.randint(0, 4, (3, 4))
    for steps in (eager, compiled):
        steps.start_epoch()
    expected, _ = eager.step(images, targets)
    losses, _ = compiled.step(images, targets)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_the_stems_gradient_is_summed_in_float32():
    """Of many bfloat16 gradients, which autocast gives; a bfloat16 sum errs by a hundred times as much."""
    parts = torch.rand(48, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    summed = _OrderedSum(0)
    for number, part in enumerate(parts):
        summed.add(number, part.clone())
    torch.testing.assert_close(summed.total, parts.float().sum(0), rtol=1e-6, atol=0)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="bfloat16 convolutions of oneDNN")
@pytest.mark.parametrize("loss", ["cross_entropy", "proxy_anchor"])
def test_a_step_in_bfloat16_learns_and_its_loss_is_computed_in_float32(loss: str):
    some = trainer(Ensemble("resnet18", 3, 4), 1e-3, precision="bfloat16", loss=loss)
    given = []
    some.losses["1"].register_forward_pre_hook(
        lambda _, of: given.append((of[0].dtype, torch.is_autocast_enabled("cpu")))
    )
    some.start_epoch()
    before = some.model.stem.conv1.weight.detach().clone()
    losses, _ = some.step(torch.randn(4, 3, 32, 32), torch.tensor([[0, 0, 1, 1]]).expand(3, 4))
    assert losses.dtype == torch.float32
    assert given == [(torch.float32, False)]
    assert {value.dtype for value in some.learned.parameters()} == {torch.float32}
    assert not torch.equal(some.model.stem.conv1.weight, before)
