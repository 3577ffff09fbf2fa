"""Training in reduced precision."""

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer

from sparsenet.config import load_config
from sparsenet.engine.trainer import BFloat16Trainer, trainer_class
from sparsenet.errors import ConfigError


class Regression(torch.nn.Module):
    """Fits y = x W to 1; keeps the dtype that its product came out in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.layer(x)
        self.dtype = y.dtype
        return {"loss": (y.float() - 1).square().mean()}


def test_bfloat16_trains_on_a_cpu_and_keeps_float32_weights() -> None:
    torch.manual_seed(0)
    model, data = Regression(), [torch.rand(8, 4)] * 30
    trainer = BFloat16Trainer(model, data, torch.optim.SGD(model.parameters(), 0.2))
    trainer.train(0, 30)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert model.dtype == torch.bfloat16
    assert model.layer.weight.dtype == torch.float32
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        ((), SimpleTrainer),
        (("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"), BFloat16Trainer),
        (("SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cuda"), AMPTrainer),
    ],
)
def test_precision_chooses_the_trainer(opts: tuple[str, ...], expected: type) -> None:
    assert trainer_class(load_config(opts=["MODEL.DEVICE", "cpu", *opts])) is expected


@pytest.mark.parametrize("precision", ["float16", "float8"])
def test_other_precisions_are_refused(precision: str) -> None:
    opts = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", precision, "MODEL.DEVICE", "cpu"]
    with pytest.raises(ConfigError, match=f"or float16 on a GPU; got '{precision}'"):
        trainer_class(load_config(opts=opts))
