"""AdaFactor against its formula in float64, other libraries and itself on several processes."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import training.adafactor
from tests.training import sharded_optimizer as worker
from tests.training.ranks import run_ranks
from training.optimizer import AdaFactor, build_optimizer, optimizer_state

MODES = ("constant", "debiased", "capped")


def oracle(start, gradients, *, lr=1e-2, beta1=0.9, beta2=0.999, mode="capped", clip=1.0, decay=0):
    """The updates of one parameter, written out in numpy's float64.

    The moments are kept plainly (from zero, times beta2) and corrected on reading.
    """
    value, shape = start.reshape(len(start), -1) if start.ndim > 2 else start, start.shape
    moment = momentum = 0.0
    rows = columns = 0.0
    for t, gradient in enumerate(gradients, start=1):
        gradient = gradient.reshape(value.shape)
        rho = min(beta2, 1 - t**-0.8) if mode == "capped" else beta2
        correction = 1 - beta2**t if mode == "debiased" else 1.0
        square = gradient**2 + 1e-30
        if value.ndim < 2:
            moment = rho * moment + (1 - rho) * square
            second = moment / correction
        else:
            rows = rho * rows + (1 - rho) * square.mean(1)
            columns = rho * columns + (1 - rho) * square.mean(0)
            second = np.outer(rows, columns) / rows.mean() / correction
        update = gradient / np.sqrt(second)
        update = lr * update / max(1.0, np.sqrt(np.mean(update**2)) / clip)
        momentum = beta1 * momentum + (1 - beta1) * update
        value = value * (1 - lr * decay) - momentum
    return value.reshape(shape)


def run(start, gradients, *, dtype=torch.float64, **options) -> np.ndarray:
    parameter = nn.Parameter(torch.tensor(start, dtype=dtype))
    optimizer = AdaFactor([parameter], **options)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).to(dtype)
        optimizer.step()
    return parameter.detach().double().numpy()


@given(
    shape=st.sampled_from([(), (6,), (5, 7), (1, 9), (9, 1), (40, 3), (4, 3, 2, 2), (3, 2, 5)]),
    mode=st.sampled_from(MODES),
    beta1=st.sampled_from([0.0, 0.9]),
    beta2=st.sampled_from([0.9, 0.999]),
    clip=st.sampled_from([0.1, 1.0]),
    tile=st.sampled_from([1, 7, 1 << 18]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_is_the_formula(shape, mode, beta1, beta2, clip, tile, seed) -> None:
    rng = np.random.default_rng(seed)
    start, *gradients = rng.standard_normal((7, *shape)) * 10 ** rng.uniform(-4, 2, (7, *shape))
    start = np.asarray(start)
    gradients = [np.asarray(gradient) for gradient in gradients]
    kept = training.adafactor._TILE["cpu"]
    training.adafactor._TILE["cpu"] = tile
    try:
        options = {"lr": 1e-2, "betas": (beta1, beta2), "beta2_mode": mode, "clip": clip}
        found = run(start, gradients, **options, weight_decay=0.1)
        expected = oracle(
            start, gradients, beta1=beta1, beta2=beta2, mode=mode, clip=clip, decay=0.1
        )
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    finally:
        training.adafactor._TILE["cpu"] = kept


@pytest.mark.parametrize("mode", MODES)
def test_float32_is_within_rounding_of_float64(mode: str) -> None:
    rng = np.random.default_rng(0)
    start, *gradients = rng.standard_normal((21, 96, 130))
    found = run(start, gradients, dtype=torch.float32, beta2_mode=mode, lr=1e-2) - start
    expected = oracle(start, gradients, mode=mode) - start
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_bf16_momentum_halves_the_state_and_stays_near() -> None:
    rng = np.random.default_rng(0)
    start, *gradients = rng.standard_normal((31, 40, 60))
    expected = oracle(start, gradients) - start
    found = run(start, gradients, dtype=torch.float32, lr=1e-2, momentum="bf16") - start
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    vector = start[0]
    close = run(vector, [g[0] for g in gradients], dtype=torch.float32, lr=1e-2, momentum="bf16")
    expected = oracle(vector, [g[0] for g in gradients])
    assert np.linalg.norm(close - expected) < 0.01 * np.linalg.norm(expected - vector)

    parameter = nn.Parameter(torch.from_numpy(start).float())
    state = AdaFactor([parameter], momentum="bf16")
    parameter.grad = torch.ones_like(parameter)
    state.step()
    kept = state.state[parameter]
    assert sum(v.numel() * v.element_size() for v in kept.values()) == 2 * 2400 + 4 * 100 + 8


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_agrees_with_transformers(beta1: float | None) -> None:
    """Theirs caps beta2 at 1 - t^-0.8 alone, factors convolutions otherwise: matrices, vectors."""
    theirs_class = pytest.importorskip("transformers.optimization").Adafactor
    torch.manual_seed(0)
    ours = nn.ParameterList([torch.randn(12, 20), torch.randn(7)])
    theirs = copy.deepcopy(ours)
    ours_optimizer = AdaFactor(ours, lr=1e-2, betas=(beta1 or 0.0, 1 - 1e-9))
    options = {"scale_parameter": False, "relative_step": False}
    their_optimizer = theirs_class(theirs, lr=1e-2, beta1=beta1, **options)
    for _ in range(8):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        ours_optimizer.step()
        their_optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_agrees_with_torch() -> None:
    """torch's has no momentum and always scales by the parameter's RMS: undone by its lr."""
    torch.manual_seed(0)
    start, *gradients = torch.randn(6, 12, 20)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lr = 1e-3
    optimizer = AdaFactor([ours], lr=lr, betas=(0.0, 1 - 1e-9))
    for gradient in gradients:
        before = theirs.detach().clone()
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        # a fresh state every step would hide the moments, so keep one and rescale its step
        if gradient is gradients[0]:
            reference = torch.optim.Adafactor([theirs], lr=lr, eps=(1e-30, 1e-3))
        scale = before.square().mean().sqrt()
        reference.step()
        with torch.no_grad():
            theirs.copy_(before + (theirs - before) / scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_zero_gradients_change_nothing() -> None:
    start = np.random.default_rng(0).standard_normal((4, 5))
    for mode in MODES:
        found = run(start, [np.zeros((4, 5))] * 3, dtype=torch.float32, beta2_mode=mode)
        np.testing.assert_array_equal(found, start.astype(np.float32))


@pytest.mark.parametrize("shape", [(6,), (6, 5), (4, 3, 2, 2), ()], ids=str)
def test_reaches_a_minimum(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = torch.randn(shape)
    parameter = nn.Parameter(torch.zeros(shape))
    optimizer = AdaFactor([parameter], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        parameter.grad = parameter.detach() - target
        optimizer.step()
    assert (parameter - target).abs().max() < 0.02


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1.0},
        {"betas": (1.5, 0.9)},
        {"betas": (0.9, -0.1)},
        {"beta2_mode": "none"},
        {"momentum": "fp16"},
    ],
    ids=str,
)
def test_bad_settings_are_quoted(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"AdaFactor \w+ is \S+: expected"):
        AdaFactor([torch.zeros(2)], **bad)


@pytest.mark.parametrize("kind", ["adafactor", "adamw"])
def test_state_travels_by_name(kind: str) -> None:
    """Half a run, its state as named tensors, the other half in new objects: the same weights."""
    whole = worker.make(torch.float32)
    worker.train(whole, {"kind": kind}, range(6))
    first = worker.make(torch.float32)
    optimizer, _ = worker.train(first, {"kind": kind}, range(3))
    state = optimizer_state(optimizer, dict(first.named_parameters()))
    assert {name.rsplit(".", 1)[0] for name in state} == set(dict(first.named_parameters()))

    second = copy.deepcopy(first)
    named = dict(second.named_parameters())
    resumed = build_optimizer(named.items(), kind)
    fresh = optimizer_state(resumed, named)
    assert set(fresh) == set(state)  # before any step
    for name, tensor in fresh.items():
        tensor.copy_(state[name])
    for step in range(3, 6):
        worker.set_gradients(second, step)
        resumed.step()
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, named[name])


@pytest.mark.parametrize("kind", ["adafactor", "adamw"])
def test_a_share_of_the_rate_slows_what_it_names(kind: str) -> None:
    def moved(shares: dict[str, float]) -> dict[str, Tensor]:
        module = worker.make(torch.float32)
        named = dict(module.named_parameters())
        before = {name: p.detach().clone() for name, p in named.items()}
        optimizer = build_optimizer(named.items(), kind, lr=0.01, lr_shares=shares)
        for parameter in named.values():
            parameter.grad = torch.ones_like(parameter)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["lr_share"]
        optimizer.step()
        return {name: p.detach() - before[name] for name, p in named.items()}

    whole, shared = moved({}), moved({"wide.": 0.25})
    for name, step in whole.items():
        share = 0.25 if name.startswith("wide.") else 1.0
        torch.testing.assert_close(shared[name], share * step, rtol=1e-3, atol=1e-6)


def test_groups_spare_biases_and_leave_out_the_frozen() -> None:
    module = worker.make(torch.float32)
    module.conv.requires_grad_(False)
    optimizer = build_optimizer(module.named_parameters(), "adafactor", weight_decay=0.1)
    decays = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    named = {n: decays.get(p) for n, p in module.named_parameters()}
    assert named == {
        "table": 0,
        "single": 0,
        "wide.weight": 0.1,
        "wide.bias": 0,
        "conv.weight": None,
        "conv.bias": None,
    }
    with pytest.raises(ValueError, match="'sgd'"):
        build_optimizer(module.named_parameters(), "sgd")
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(module.requires_grad_(False).named_parameters())


SETTINGS = {
    **{mode: {"kind": "adafactor", "beta2_mode": mode, "lr": 1e-2} for mode in MODES},
    "bf16": {"kind": "adafactor", "momentum": "bf16", "lr": 1e-2},
    "adamw": {"kind": "adamw", "weight_decay": 0.1, "lr": 1e-2},
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("sharded")
    return run_ranks(worker.all_meshes, 4, SETTINGS, str(folder))


def assert_same(found, expected, **tolerance) -> None:
    """Equal within tolerance, name by name, whatever the nesting."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[key], value, **tolerance)
        else:
            np.testing.assert_allclose(found[key], value, err_msg=key, **tolerance)


def joined(parts: list[dict]) -> dict:
    """The results of the ranks of one sharded group, put together."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: joined([part[key] for part in parts]) for key in first}
    _, is_part = first
    whole = torch.cat([part[0] for part in parts]) if is_part else parts[-1][0]
    return whole.double().numpy()


def groups(mesh: str) -> np.ndarray:
    """The ranks of a mesh, a row for each set that holds all of a parameter."""
    return np.atleast_2d(worker.MESHES[mesh])


KINDS = ("weights", "state", "average")


def alone(setting: dict, steps: range = range(worker.STEPS)) -> dict:
    module = worker.make(worker.DTYPE)
    return joined([worker.everything(module, *worker.train(module, setting, steps))])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("mesh", worker.MESHES)
def test_shards_together_do_what_one_process_does(ranks, mesh: str, setting: str) -> None:
    expected = alone(SETTINGS[setting])
    # a bf16 momentum on the edge between two numbers may fall to either side
    tolerance = {"rtol": 0, "atol": 1e-4} if setting == "bf16" else {"rtol": 1e-10, "atol": 1e-7}
    for group in groups(mesh):
        runs = [ranks[rank][f"{mesh} {setting}"] for rank in group]
        found = {kind: joined([run[kind] for run in runs]) for kind in KINDS}
        assert_same(found, expected, **tolerance)
        assert_same(joined([run["swapped"] for run in runs]), found["average"], rtol=1e-6)
        assert_same(joined([run["after swap"] for run in runs]), found, rtol=0)


def test_shards_were_uneven_and_some_empty(ranks) -> None:
    rows = [ranks[rank]["three capped"]["rows"] for rank in range(3)]
    assert [row["wide.weight"] for row in rows] == [3, 3, 1]
    assert [row["table"] for row in rows] == [1, 1, 0]
    assert [row["single"] for row in rows] == [1, 0, 0]


def test_state_is_sharded_like_the_parameter(ranks) -> None:
    placements = ranks[0]["hybrid capped"]["placements"]
    rows, columns = "(Replicate(), Shard(dim=0))", "(Replicate(), Replicate())"
    assert placements["wide.weight.momentum"] == placements["wide.weight.rows"] == rows
    assert placements["wide.weight.columns"] == columns
    assert placements["wide.bias.second"] == rows


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_ranks_continue_what_three_saved(ranks, setting: str) -> None:
    found = joined([ranks[rank][f"reshard {setting}"] for rank in (0, 1)])
    runs = [ranks[rank][f"three {setting}"] for rank in (0, 1, 2)]
    assert_same(found["loaded"], {k: joined([run[k] for run in runs]) for k in KINDS}, rtol=0)
    if setting != "bf16":
        expected = alone(SETTINGS[setting], range(worker.STEPS + 1))
        assert_same(found["continued"], expected, rtol=1e-10, atol=1e-7)


def test_the_oracle_agrees_with_a_sharded_run(ranks) -> None:
    module = worker.make(worker.DTYPE)
    for mode in MODES:
        found = joined([ranks[rank][f"three {mode}"]["weights"] for rank in (0, 1, 2)])
        for name, parameter in module.named_parameters():
            gradients = [worker.gradients(module, s)[name].numpy() for s in range(worker.STEPS)]
            expected = oracle(parameter.detach().numpy(), gradients, mode=mode)
            np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-12)
