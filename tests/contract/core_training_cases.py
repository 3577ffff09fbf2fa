"""Contract cases of config, solver, events and checkpoints: each returns one record.

Values are JSON types or numpy arrays.
"""

import logging
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from contract.core_inputs import numbers, outcome, set_weights
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter
from detectron2.utils.logger import create_small_table
from torch import nn


def _flat(node: CfgNode, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in node.items():
        is_node = isinstance(value, CfgNode)
        flat.update(_flat(value, f"{prefix}{key}.") if is_node else {prefix + key: repr(value)})
    return flat


def config_defaults() -> dict:
    """Every key with the text of its value, which shows its type."""
    return _flat(get_cfg())


def config_merge_list() -> dict:
    """Typing rules of KEY VALUE pairs."""
    pairs = [
        ("SOLVER.BASE_LR", "0.5"), ("SOLVER.BASE_LR", "1"), ("SOLVER.BASE_LR", "high"),
        ("SOLVER.IMS_PER_BATCH", "2"), ("SOLVER.IMS_PER_BATCH", "2.5"), ("SOLVER.IMS_PER_BATCH", 4),
        ("SOLVER.STEPS", "(1, 2)"), ("SOLVER.STEPS", "[3]"), ("SOLVER.STEPS", "5"),
        ("MODEL.PIXEL_MEAN", "(1.0, 2.0, 3.0)"), ("MODEL.MASK_ON", "True"), ("MODEL.MASK_ON", "1"),
        ("MODEL.WEIGHTS", "a/b.pth"), ("MODEL.WEIGHTS", "None"), ("MODEL.WEIGHTS", "3"),
        ("DATASETS.TRAIN", "('a', 'b')"), ("SOLVER.WEIGHT_DECAY_BIAS", "0.1"),
        ("MODEL.NO_SUCH", "1"), ("NO.SUCH", "1"), ("_BASE_", "x.yaml"),
        ("MODEL.FPN", "{'NORM': 'GN'}"),
    ]  # fmt: skip

    def merge(key, value):
        cfg = get_cfg()
        cfg.merge_from_list([key, value])
        return repr(_value(cfg, key))

    results = {
        f"{key}={value!r}": outcome(lambda k=key, v=value: merge(k, v)) for key, value in pairs
    }
    results["odd length"] = outcome(lambda: get_cfg().merge_from_list(["SEED"]))
    return results


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return dict(cfg) if isinstance(cfg, CfgNode) else cfg


def config_files() -> dict:
    """_BASE_, VERSION, unknown keys, freezing and dumping."""
    files = {
        "base.yaml": "VERSION: 2\nSOLVER: {BASE_LR: 0.02, STEPS: [10, 20]}\nSEED: 3\n",
        "leaf.yaml": "_BASE_: base.yaml\nSOLVER: {MAX_ITER: 30}\nSEED: 4\n",
        "two.yaml": "_BASE_: [base.yaml, other.yaml]\nVERSION: 2\n",
        "other.yaml": "SEED: 9\nVIS_PERIOD: 1\n",
        "unknown.yaml": "VERSION: 2\nMODEL: {NOTHING: 1}\n",
        "future.yaml": "VERSION: 3\nSEED: 1\n",
        "wrong.yaml": "VERSION: 2\nSOLVER: {BASE_LR: fast}\n",
        "noversion.yaml": "SEED: 5\n",
        "nobase.yaml": "_BASE_: missing.yaml\nVERSION: 2\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        result = {name: outcome(lambda n=name: _changes(Path(folder, n))) for name in files}
        result["missing"] = outcome(lambda: _changes(Path(folder, "none.yaml")))
        cfg = get_cfg()
        cfg.OUTPUT_DIR = "elsewhere"
        dumped = Path(folder, "dump.yaml")
        dumped.write_text(cfg.dump())
        result["dump and read"] = _changes(dumped)
    frozen = get_cfg()
    frozen.freeze()
    result["frozen"] = outcome(lambda: setattr(frozen, "SEED", 1))
    result["clone is free"] = outcome(lambda: frozen.clone().defrost())
    return result


def _changes(path: Path) -> dict[str, str]:
    cfg, defaults = get_cfg(), _flat(get_cfg())
    cfg.merge_from_file(str(path))
    return {key: value for key, value in _flat(cfg).items() if defaults.get(key) != value}


def schedules() -> dict:
    """Learning rates at chosen iterations for all schedules and warm-ups."""
    changes = {
        "multistep": [],
        "constant": ["SOLVER.WARMUP_METHOD", "constant"],
        "rescaled": ["SOLVER.RESCALE_INTERVAL", True],
        "cosine": ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.001],
        "fixed": ["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"],
        "no warm-up": ["SOLVER.WARMUP_ITERS", 0],
        "late steps": ["SOLVER.STEPS", (60, 500)],
        "step at the end": ["SOLVER.STEPS", (100,)],
        "unknown": ["SOLVER.LR_SCHEDULER_NAME", "Other"],
    }
    return {name: outcome(lambda o=options: _rates(o)) for name, options in changes.items()}


def _rates(options: list) -> list:
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 100, (60, 80), 10
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_FACTOR = 0.04, 0.1
    cfg.merge_from_list(options)
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.04, 0.4)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler, rates = build_lr_scheduler(cfg, optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for iteration in range(100):
            if iteration in (0, 1, 5, 9, 10, 11, 33, 59, 60, 61, 79, 80, 99):
                rates.append([group["lr"] for group in optimizer.param_groups])
            if iteration < 99:
                optimizer.step()
                scheduler.step()
    return [*rates, scheduler.state_dict()]


class _Model(nn.Module):
    """A bit of everything that parameter groups distinguish."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.tail = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3))
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.alias = self.conv
        self.scale = nn.Parameter(torch.ones(1))


def parameter_groups() -> dict:
    """Groups, options and the effect of clipping on a step."""

    def groups(**kwargs) -> list:
        model = _Model()
        names = {parameter: name for name, parameter in model.named_parameters()}
        found = get_default_optimizer_params(model, **kwargs)
        return [
            [[names[p] for p in g["params"]], {k: v for k, v in g.items() if k != "params"}]
            for g in found
        ]

    def step(*options) -> list:
        cfg, model = get_cfg(), set_weights(_Model())
        cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, *options])
        optimizer = build_optimizer(cfg, model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                grad = 4 * numbers("grad" + name, tuple(parameter.shape))
                parameter.grad = torch.tensor(grad, dtype=torch.float32)
        optimizer.step()
        values = torch.cat([p.detach().flatten() for p in model.parameters()])
        return [type(optimizer).__name__, len(optimizer.param_groups), *values.tolist()]

    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE")
    factor = {"lr_factor_func": lambda name: 0.5 if "tail" in name else 1.0}
    return {
        "plain": groups(),
        "norm": groups(base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0),
        "bias": groups(base_lr=1.0, bias_lr_factor=2.0, weight_decay_bias=0.5),
        "factor": groups(base_lr=1.0, **factor),
        "overrides": groups(base_lr=1.0, overrides={"scale": {"lr": 3.0}}),
        "conflict": outcome(
            lambda: groups(base_lr=1.0, bias_lr_factor=2.0, overrides={"bias": {"lr": 1.0}})
        ),
        "factor without rate": outcome(lambda: groups(**factor)),
        "step": step(),
        "step by value": step(*clip, "value"),
        "step by norm": step(*clip, "norm", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5),
        "step full model": outcome(lambda: step(*clip, "full_model")),
    }


def events() -> dict:
    """metrics.json, smoothing, scopes and the printed line."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("detectron2.utils.events")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, EventStorage(10) as storage:
        path = Path(folder, "metrics.json")
        writers = [JSONWriter(str(path)), CommonMetricPrinter(100)]
        for i in range(45):
            storage.put_scalars(total_loss=float(i % 7), loss_ce=0.5, cur_iter=None)
            storage.put_scalar("lr", 0.01, smoothing_hint=False)
            if i > 2:
                storage.put_scalar("time", 0.25 + i / 100)
                storage.put_scalar("data_time", 0.01 * i)
            with storage.name_scope("bbox"):
                if i == 30:
                    storage.put_scalar("AP", float("nan"), smoothing_hint=False)
            if i % 20 == 19:
                for writer in writers:
                    writer.write()
            storage.step()
        for writer in writers:
            writer.write()
            writer.close()
        text = path.read_text()
        hint = outcome(lambda: storage.put_scalar("lr", 1.0))
        facts = {
            "iteration": storage.iter,
            "samples": storage.count_samples("time"),
            "latest": storage.latest()["total_loss"],
            "smoothed": storage.latest_with_smoothing_hint(20)["total_loss"],
            "names": sorted(storage.histories()),
            "unknown": outcome(lambda: storage.history("nothing")),
            "other hint": hint,
        }
    logger.removeHandler(handler)
    logger.setLevel(level)
    lines = [re.sub(r"max_mem: \d+M", "", line).rstrip() for line in lines]
    return {"metrics.json": text.splitlines(), "lines": lines, **facts}


def tables() -> dict:
    """create_small_table."""
    return {"table": create_small_table({"AP": 12.34567, "AP50": 40, "name": "x"})}


def checkpoints() -> dict:
    """Files, their keys, resuming, and matching by the ends of names."""
    with tempfile.TemporaryDirectory() as folder:
        model = set_weights(_Model())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        checkpointer = DetectionCheckpointer(model, folder, optimizer=optimizer)
        periodic = PeriodicCheckpointer(checkpointer, 2, max_iter=5)
        for i in range(5):
            periodic.step(i)
        files = sorted(path.name for path in Path(folder).iterdir())
        last = Path(folder, "last_checkpoint").read_text()
        keys = sorted(torch.load(Path(folder, last), weights_only=True))
        fresh = DetectionCheckpointer(_Model(), folder)
        extra = fresh.resume_or_load("", resume=True)
        inner = set_weights(_Model())
        torch.save(inner.state_dict(), Path(folder, "bare.pth"))
        outer = nn.ModuleDict({"part": _Model()})
        DetectionCheckpointer(outer).load(
            str(Path(folder, "bare.pth")) + "?matching_heuristics=True"
        )
        return {
            "files": files,
            "last": last,
            "keys": keys,
            "extra": sorted(extra),
            "iteration": extra["iteration"],
            "same": torch.equal(fresh.model.scale, model.scale),
            "matched": torch.equal(outer["part"].scale, inner.scale),
            "query": outcome(lambda: DetectionCheckpointer(outer).load(f"{folder}/bare.pth?a=b")),
            "empty path": DetectionCheckpointer(outer).load(""),
            "missing": outcome(lambda: DetectionCheckpointer(outer).load(f"{folder}/no.pth")),
        }


def name_matching() -> dict:
    """Which key of a file goes to which key of the model."""

    def match(model: dict, file: dict) -> dict:
        tensors = [{k: torch.zeros(n) for k, n in side.items()} for side in (model, file)]
        result = align_and_update_state_dicts(*tensors, c2_conversion=False)
        return {key: list(value.shape) for key, value in sorted(result.items())}

    model = {"net.res2.conv.weight": 2, "net.conv.weight": 3, "net.xconv.weight": 4}
    return {
        "longest": match(model, {"res2.conv.weight": 2, "conv.weight": 3}),
        "left over": match(model, {"res2.conv.weight": 2, "fc.weight": 9}),
        "wrong shape": match(model, {"res2.conv.weight": 5, "net.conv.weight": 3}),
        "nothing": match(model, {"fc.weight": 9}),
        "ambiguous": outcome(lambda: match({"a.w": 1, "b.w": 1}, {"w": 1})),
    }


CASES = [
    config_defaults, config_merge_list, config_files, schedules, parameter_groups, events, tables,
    checkpoints, name_matching,
]  # fmt: skip
