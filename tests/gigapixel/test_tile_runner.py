import pytest
import torch
from small_sparse_rcnn import small_model
from torch import nn

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.tile_batch import TileBatch
from sparsenet.gigapixel.tile_runner import RunOptions, TileRunner
from sparsenet.tiling import TileGrid


def batch(num) -> TileBatch:
    tiles = list(TileGrid((64, 64 * num), 64, 0, 1))
    torch.manual_seed(num)
    return TileBatch(tiles, torch.randint(0, 256, (num, 3, 64, 64), dtype=torch.uint8))


class Recorder(nn.Module):
    """Remembers the tiles of every call; its outputs tell them apart."""

    def __init__(self, limit=100):
        super().__init__()
        self.backbone = nn.Identity()  # what is compiled
        self.calls = []
        self.limit = limit

    def forward(self, inputs):
        self.calls.append(len(inputs))
        if len(inputs) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return [{"instances": int(item["image"].sum())} for item in inputs]


def sums(outputs) -> list[int]:
    return [output["instances"] for _, part in outputs for output in part]


def test_compiled_models_only_see_one_shape():
    model = Recorder()
    runner = TileRunner(model, RunOptions(use_compile=True), batch_size=4)
    tiles = batch(6)
    expected = [int(image.sum()) for image in tiles.pixels]
    found = [*runner(tiles.part(0, 4)), *runner(tiles.part(4, 6))]
    assert sums(found) == expected
    assert model.calls == [4, 4]


def test_memory_that_shrinks_splits_the_batch_again():
    model = Recorder()
    runner = TileRunner(model, RunOptions(), batch_size=8)
    tiles = batch(8)
    expected = [int(image.sum()) for image in tiles.pixels]
    assert sums(runner(tiles)) == expected
    model.limit = 3
    assert sums(runner(tiles)) == expected
    assert model.calls == [8, 8, 4, 2, 2, 2, 2]


@pytest.mark.parametrize("num", [6, 5])
def test_a_filled_up_batch_counts_with_what_fills_it(num, caplog):
    """Memory that became scarce after the first batch of four: the last is no smaller."""
    model = Recorder()
    runner = TileRunner(model, RunOptions(use_compile=True), batch_size=4)
    tiles = batch(num)
    expected = [int(image.sum()) for image in tiles.pixels]
    found = sums(runner(tiles.part(0, 4)))
    model.limit = 2
    assert found + sums(runner(tiles.part(4, num))) == expected
    assert model.calls == [4, 4, 2]
    assert "with 4 tiles at once; going on with 2" in caplog.text


@pytest.mark.parametrize("use_compile", [False, True])
def test_a_tile_that_does_not_fit_alone_is_told(use_compile):
    model = Recorder(limit=0)
    runner = TileRunner(model, RunOptions(use_compile=use_compile), batch_size=2)
    with pytest.raises(ConfigError, match=r"64 × 64 pixels do not fit\. Lower TEST\.TILE\.SIZE"):
        sums(runner(batch(2)))
    assert model.calls == [2, 1]


def test_callables_that_are_no_modules_run_as_they_are():
    options = RunOptions(use_bf16=True, channels_last=True)
    runner = TileRunner(lambda inputs: [{"instances": len(inputs)}] * len(inputs), options, 2)
    assert sums(runner(batch(3))) == [2, 2, 1]


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_boxes():
    torch.manual_seed(0)
    plain, compiled = small_model().eval(), small_model().eval()
    compiled.load_state_dict(plain.state_dict())
    names = set(compiled.state_dict())
    tiles = batch(5)
    found = [
        [output["instances"] for _, part in runner(tiles) for output in part]
        for runner in (
            TileRunner(plain, RunOptions(), 4),
            TileRunner(compiled, RunOptions(use_compile=True), 4),
        )
    ]
    assert set(compiled.state_dict()) == names
    for one, other in zip(*found):
        order, orders = one.scores.argsort(), other.scores.argsort()
        torch.testing.assert_close(one.scores[order], other.scores[orders], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            one.pred_boxes.tensor[order], other.pred_boxes.tensor[orders], atol=1e-2, rtol=1e-3
        )
