"""Seconds of what is compared, taken in turn in one process, and what this machine could do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Call = Callable[[], object]
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Taken:
    """Seconds of every repetition of one run; the same place in two lists is the same round."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The least, in seconds."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """From the first to the third quartile, as a share of the median."""
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return (third - first) / self.median

    def over(self, other: Taken) -> list[float]:
        """Ratio to another run, round by round."""
        return [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]


def clock() -> str:
    """With one thread, the processor time of this process, which others on the machine hardly
    change; with several, which wait for each other, the time on the wall."""
    return "processor" if torch.get_num_threads() == 1 else "wall"


def in_turn(runs: Mapping[str, Call], repetitions: int) -> dict[str, Taken]:
    """Every run once per round after one to warm up: whatever disturbs the machine hits all."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    now = CLOCKS[clock()]
    for _ in range(repetitions):
        for name, run in runs.items():
            start = now()
            run()
            seconds[name].append(now() - start)
    return {name: Taken(values) for name, values in seconds.items()}


def compared(taken: Mapping[str, Taken], base: str, gflop: Mapping[str, float]) -> Iterator[dict]:
    """A row per run: its time, and as `ratio` the median of its rounds over those of `base`.

    gflop: of the runs whose work is known, in 10^9 (a multiply-add is two).
    """
    for name, found in taken.items():
        ratios = sorted(found.over(taken[base]))
        row = {
            "what": name,
            "threads": torch.get_num_threads(),
            "clock": clock(),
            "repetitions": len(found.seconds),
            "median_s": round(found.median, 4),
            "best_s": round(found.best, 4),
            "spread": round(found.spread, 3),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
        if name in gflop:
            row["gflop"] = round(gflop[name], 2)
            row["gflop_per_s"] = round(gflop[name] / found.best, 1)
        yield row


def between_rooflines(dtype: str, rows: Iterator[dict]) -> Iterator[dict]:
    """The rows with their dtype, and the machine's limits first and last: did it stay the same?"""
    yield {"what": "roofline, first", "dtype": dtype, **roofline(DTYPES[dtype])}
    for row in rows:
        yield {"dtype": dtype, **row}
    yield {"what": "roofline, last", "dtype": dtype, **roofline(DTYPES[dtype])}


def roofline(dtype: torch.dtype) -> dict:
    """GFLOP/s of a linear layer's product and GB/s of a copy (read and written), best of some."""
    x, weight = torch.randn(2560, 512).to(dtype), torch.randn(2048, 512).to(dtype)
    source = torch.randn(2**25)
    target = torch.empty_like(source)
    runs = {
        "product": lambda: torch.nn.functional.linear(x, weight),
        "copy": lambda: target.copy_(source),
    }
    taken = in_turn(runs, 9)
    return {
        "gflop_per_s": round(2 * 2560 * 512 * 2048 / taken["product"].best / 1e9, 1),
        "copy_gb_per_s": round(2 * source.nbytes / taken["copy"].best / 1e9, 1),
    }


NO_PRODUCTS = "this CPU has no bfloat16 products: its times would say nothing of one that has"


def has_products(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of a dtype itself: without avx512_bf16 or AMX, bfloat16
    is converted number by number, and times of it say nothing of a CPU that has them."""
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def count_gflop(call: Call) -> float:
    """GFLOP of a call, from torch's counter and for what it does not know, attention on a CPU."""
    aten = torch.ops.aten
    more = {
        aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        call()
    return counter.get_total_flops() / 1e9


def peak_bytes(call: Call) -> int:
    """The most that a call holds at once beyond what it found, from torch's allocator."""
    return _held(call)[1]


def kept_bytes(call: Call) -> int:
    """What is held when a call is over and its result is not yet gone."""
    return _held(call)[0]


def _held(call: Call) -> tuple[int, int]:
    """Bytes at the end, and at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = call()
    del result
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return held, peak


def shares(call: Call, first: int = 6) -> dict[str, float]:
    """Where a call's time goes: share of each of the largest operations, by their own time."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        call()
    events = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {e.key: round(e.self_cpu_time_total / total, 3) for e in events[:first]}


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest value of the reference."""
    return float((found - reference).abs().max() / reference.abs().max())
