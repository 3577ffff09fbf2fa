"""The backbones' benchmark on a tiny map: what is measured, and the masked reference."""

import pytest
import torch

from sparsenet.analysis.backbone_speed import (
    PEER,
    BackboneCase,
    MaskedStage,
    SpeedOptions,
    local_blocks,
    measure_inference,
    measure_training,
    set_keep_ratio,
    sparse_stages,
)
from sparsenet.analysis.backbone_tables import share_table, time_table, training_table
from sparsenet.analysis.flops import FlopCount
from sparsenet.errors import ConfigError

OPTIONS = SpeedOptions(torch.device("cpu"), repetitions=1, quiet=True)
IMAGES = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
MODULES = ("attention", "conv", "ls")
DESIGNS = ("corrected", "faithful")


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("module", MODULES)
def test_stages_and_local_blocks_of_every_design(module: str, design: str) -> None:
    backbone = BackboneCase(module, "nano", design).build().eval()
    assert len(sparse_stages(backbone)) == 4
    assert len(local_blocks(backbone)) >= 8
    large = torch.randn(1, 3, 256, 256)
    dense = FlopCount(backbone, [large]).total()
    set_keep_ratio(backbone, 0.1)
    assert FlopCount(backbone, [large]).total() < 0.8 * dense


def test_records_and_tables_of_inference() -> None:
    cases = [BackboneCase(module, "nano") for module in ("conv", "attention")]
    records = measure_inference(cases, (1.0, 0.1), IMAGES, OPTIONS)
    assert [(r["backbone"], r["keep"]) for r in records] == [
        *((str(case), keep) for case in cases for keep in (1.0, 0.1)),
        (PEER, None),
    ]
    assert all(0 < r["outside"] < 1 for r in records[:-1]) and records[-1]["outside"] is None
    assert records[3]["gflops"] < records[2]["gflops"]
    lines = time_table(records).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "backbone", "GFLOPs", "ms", "0.1", "largest spread",
    ]  # fmt: skip
    assert len(lines) == 2 + 3 and PEER in lines[-1]
    assert PEER not in share_table(records, "outside")


def test_records_and_table_of_training() -> None:
    records = measure_training([BackboneCase("conv", "nano")], 0.3, IMAGES, OPTIONS)
    assert [r["form"] for r in records] == ["packed", "masked"]
    assert all(r["peak_bytes"] > 0 for r in records)
    assert training_table(records).count("conv nano, corrected") == 1


@pytest.mark.parametrize("has_gradients", [True, False])
@pytest.mark.parametrize("module", MODULES)
def test_the_masked_stage_leaves_windows_that_are_not_kept(module: str, has_gradients) -> None:
    stage = BackboneCase(module, "nano").build().eval().stages[0]
    x = torch.randn(1, 28, 28, 32)
    whole, _ = stage(x, None)
    with torch.set_grad_enabled(has_gradients):
        every, _ = MaskedStage(stage, 1.0)(x, None)
        some, _ = MaskedStage(stage, 0.25)(x, None)
    torch.testing.assert_close(every, whole)
    is_input = (some == x).all(dim=-1)
    is_output = torch.isclose(some, whole, atol=1e-5).all(dim=-1)
    assert (is_input ^ is_output).all()
    assert is_output.float().mean() == 0.25


def test_an_unknown_backbone() -> None:
    with pytest.raises(ConfigError, match="LOCAL_MODULE"):
        BackboneCase("mixer", "nano").build()
