"""The published blocks against torchvision's Swin and ResNet blocks."""

import pytest
import torch
from torchvision.models.resnet import BasicBlock as ReferenceBasicBlock
from torchvision.models.swin_transformer import SwinTransformerBlock

from sparsenet.layers.faithful_blocks import (
    BasicBlock,
    LocalAttentionBlock,
    LocalConvBlock,
    region_mask,
    relative_position_index,
    replace_windows,
)
from sparsenet.ops.windows import WindowGrid, partition_windows, spread_windows

MAP_SIZE, WIDTH, HEADS = (17, 23), 32, 2
GRID = WindowGrid(MAP_SIZE, 7)  # 3 × 4 windows, padded
SOME = torch.tensor([11, 0, 5, 6, 14, 23])  # of two images, in no order
EVERY = torch.arange(2 * GRID.num_windows)


def _attention_pair(shift: int):
    """Our block and torchvision's with the same weights, in float64."""
    torch.manual_seed(0)
    ours = LocalAttentionBlock(WIDTH, HEADS, window_size=7, shift=shift, drop_path=0.0).double()
    theirs = SwinTransformerBlock(WIDTH, HEADS, [7, 7], [shift, shift]).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = {"mlp.0": "ffn.layers.0.0", "mlp.3": "ffn.layers.1", "attn.": "attn.w_msa."}
    state = theirs.state_dict()
    for key in state:
        name = key
        for old, new in names.items():
            name = name.replace(old, new)
        if "index" not in key:
            state[key] = ours.state_dict()[name].view_as(state[key])
    theirs.load_state_dict(state)
    return ours.eval(), theirs.eval()


def _cells(kept: torch.Tensor, shift: int) -> torch.Tensor:
    """Cells of the kept windows: (B, H, W, 1) bool."""
    flags = torch.zeros(2 * GRID.num_windows, 1)
    flags[kept] = 1
    whole = WindowGrid(GRID.padded_size, 7)
    cells = spread_windows(flags.view(2, *GRID.size, 1), whole).roll((shift, shift), (1, 2))
    return cells[:, : MAP_SIZE[0], : MAP_SIZE[1]].bool()


@pytest.mark.parametrize("shift", [0, 3])
def test_a_block_that_keeps_all_windows_is_a_swin_block(shift):
    ours, theirs = _attention_pair(shift)
    x = torch.randn(2, *MAP_SIZE, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(ours(x, GRID, EVERY), theirs(x))


@pytest.mark.parametrize("shift", [0, 3])
def test_kept_windows_are_swin_and_others_get_their_norms(shift):
    ours, theirs = _attention_pair(shift)
    x = torch.randn(2, *MAP_SIZE, WIDTH, dtype=torch.float64)
    normed = theirs.norm1(x)
    x_mid = x + torch.where(_cells(SOME, shift), theirs.attn(normed), normed)
    normed = theirs.norm2(x_mid)
    expected = x_mid + torch.where(_cells(SOME, 0), theirs.mlp(normed), normed)
    out = ours(x, GRID, SOME)
    torch.testing.assert_close(out, expected)
    untouched = (~_cells(SOME, 0) & ~_cells(SOME, shift)).expand_as(x)
    once = x + ours.norm1(x)
    assert untouched.any()
    assert torch.equal(out[untouched], (once + ours.norm2(once))[untouched])


def test_relative_positions_are_swins():
    index = SwinTransformerBlock(WIDTH, HEADS, [7, 7], [0, 0]).attn.relative_position_index
    assert torch.equal(relative_position_index(7).flatten(), index)


def test_masks_are_those_of_the_kept_windows():
    mask = region_mask(GRID, SOME, 3)
    assert torch.equal(mask, region_mask(GRID, EVERY, 3)[SOME])
    assert not mask[1].any() and mask[0].any()  # the first window is whole, the last is in parts
    assert set(mask.unique().tolist()) == {0.0, -100.0}


def _pair_of_units():
    torch.manual_seed(0)
    ours, theirs = BasicBlock(WIDTH).double(), ReferenceBasicBlock(WIDTH, WIDTH).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("training", [False, True])
def test_the_unit_is_resnets_basic_block(training):
    ours, theirs = (unit.train(training) for unit in _pair_of_units())
    x = torch.randn(3, WIDTH, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    assert torch.equal(ours.bn1.running_mean, theirs.bn1.running_mean)


def test_convolutions_see_one_window_each_and_leave_the_others():
    unit, reference = (u.eval() for u in _pair_of_units())
    x = torch.randn(2, *MAP_SIZE, WIDTH, dtype=torch.float64)
    out = LocalConvBlock([unit])(x, GRID, SOME)
    cells = _cells(SOME, 0).expand_as(x)
    assert torch.equal(out[~cells], x[~cells])
    windows = partition_windows(x, GRID)[SOME].permute(0, 3, 1, 2)
    expected = reference(windows).permute(0, 2, 3, 1)
    inside = partition_windows(torch.ones_like(x), GRID)[SOME] > 0
    torch.testing.assert_close(partition_windows(out, GRID)[SOME][inside], expected[inside])


def test_no_kept_window_changes_nothing():
    x = torch.randn(2, *MAP_SIZE, WIDTH)
    nothing = torch.zeros(0, dtype=torch.int64)
    block = LocalConvBlock([BasicBlock(WIDTH)]).train()
    assert torch.equal(block(x, GRID, nothing), x)
    assert block.layer[0].bn1.num_batches_tracked == 0


@pytest.mark.parametrize("shift", [0, 3])
def test_replacing_by_the_same_is_the_identity(shift):
    x = torch.randn(2, *MAP_SIZE, WIDTH)
    assert torch.equal(replace_windows(x, GRID, SOME, lambda windows: windows, shift), x)
