"""Parameter groups and clipping of the whole gradient."""

import pytest
import torch
from torch import nn

from sparsenet.config import load_config
from sparsenet.engine.optimizer import build_optimizer
from sparsenet.errors import ConfigError


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


def cfg(*opts: str):
    return load_config(None, ["SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.25", *opts])


def test_backbone_has_its_own_rate_and_all_parameters_the_decay() -> None:
    model = Toy()
    optimizer = build_optimizer(cfg(), model)
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates == {
        id(model.backbone.weight): 0.025, id(model.backbone.bias): 0.025,
        id(model.head.weight): 0.1, id(model.head.bias): 0.1,
    }  # fmt: skip
    assert {g["weight_decay"] for g in optimizer.param_groups} == {1e-4}


def test_full_model_clipping_bounds_one_common_norm() -> None:
    model = Toy()
    optimizer = build_optimizer(
        cfg("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", "0.0", "SOLVER.WEIGHT_DECAY", "0.0",
            "SOLVER.BACKBONE_MULTIPLIER", "1.0", "SOLVER.CLIP_GRADIENTS.ENABLED", "True",
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"),
        model,
    )  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    for p in trained:
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    step = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, trained)])
    assert step.norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)  # learning rate × clip value


def test_unknown_optimizer() -> None:
    with pytest.raises(ConfigError, match="ADAMW or SGD"):
        build_optimizer(cfg("SOLVER.OPTIMIZER", "LION"), Toy())
