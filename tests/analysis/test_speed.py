"""Timing: the order of the rounds, parts, memory; no assertion depends on how fast anything is."""

import pytest
import torch
from torch import nn

from sparsenet.analysis.hardware import PEAK_TFLOPS, describe_run, one_line, peak_flops
from sparsenet.analysis.speed import (
    ModuleTimer,
    Timing,
    Variant,
    autocast,
    interleave,
    peak_memory,
    pick_device,
)
from sparsenet.errors import ConfigError

CPU = torch.device("cpu")


def test_variants_take_turns_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    variants = {name: Variant(lambda name=name: calls.append(name)) for name in "abc"}
    timings = interleave(variants, device=CPU, repetitions=3, warmup=2, quiet=True)
    assert calls == list("abc") * 5
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_parts_are_asked_for_after_every_run() -> None:
    values = iter(range(10))
    variants = {"a": Variant(lambda: None, lambda: {"part": float(next(values))})}
    timing = interleave(variants, device=CPU, repetitions=3, warmup=1, quiet=True)["a"]
    assert timing.parts == {"part": (1.0, 2.0, 3.0)} and timing.part("part") == 2.0


def test_median_and_spread() -> None:
    timing = Timing((3.0, 1.0, 2.0), {})
    assert timing.median == 2.0 and timing.spread == 1.0
    assert timing.to_dict()["median_s"] == 2.0


@pytest.mark.parametrize("rounds", [{"repetitions": 0}, {"repetitions": 1, "warmup": -1}])
def test_no_rounds(rounds: dict) -> None:
    with pytest.raises(ConfigError, match="at least one repetition"):
        interleave({"a": Variant(lambda: None)}, device=CPU, **rounds)


def test_the_modules_of_a_timer_are_a_part_of_the_whole() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    timer = ModuleTimer([model[0], model[2]], CPU)
    variant = Variant(lambda: model(torch.rand(2, 8)), lambda: {"linear": timer.pop()})
    timing = interleave({"a": variant}, device=CPU, repetitions=3, quiet=True)["a"]
    assert all(0 < part < whole for part, whole in zip(timing.parts["linear"], timing.seconds))
    assert timer.pop() == 0


def test_peak_memory_counts_what_lives_at_the_same_time() -> None:
    def step() -> None:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a + 1
        del a
        b.add_(1).view(10, 100)  # in place, and a view: nothing new
        c = b * 2  # with b 8,000 bytes
        del b, c
        torch.zeros(500)

    assert peak_memory(step, CPU) == 8000
    assert peak_memory(step, CPU) == 8000


def test_peak_memory_of_a_backward_pass_holds_what_is_saved() -> None:
    x = torch.ones(1000, requires_grad=True)

    def step() -> None:
        x.exp().exp().exp().sum().backward()
        x.grad = None

    assert peak_memory(step, CPU) >= 3 * 4000


def test_devices_and_precisions() -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="--device must name a device of this machine, got 'abc'"):
        pick_device("abc")
    with pytest.raises(ConfigError, match="fp32, bf16"):
        autocast(CPU, "fp8")
    linear = nn.Linear(4, 4)
    with autocast(CPU, "bf16"):
        assert linear(torch.rand(1, 4)).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert linear(torch.rand(1, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA L40S", "fp32", 91.6e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("Tesla T4", "fp32", 8.1e12),
        ("AMD EPYC", "fp32", None),
    ],
)
def test_peaks_of_known_cards(name: str, precision: str, expected: float | None) -> None:
    assert peak_flops(name, precision) == expected


def test_no_card_hides_behind_a_shorter_name() -> None:
    names = list(PEAK_TFLOPS)
    assert not [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a in b]


def test_the_record_of_a_run() -> None:
    run = describe_run(CPU)
    assert run["torch"] == torch.__version__ and run["cpu_threads"] == torch.get_num_threads()
    assert run["device"] and run["torch"] in one_line(run)
