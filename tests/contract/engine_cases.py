"""Cases of detectron2.engine and .evaluation: functions without arguments that return plain values,
always the same ones.

See `record_data_engine.py`, which records them with the real Detectron2.
"""

import contextlib
import itertools
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from contract.data_cases import jsonable, mapper_cfg, registered
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.engine import (
    DefaultTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    launch,
)
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

import sparsenet

# ---- evaluation -------------------------------------------------------------------------------


def _scene(num_images=12, num_classes=3):
    """Dataset dicts with boxes of all sizes; detections of them, shaken, and invented ones."""
    rng = np.random.RandomState(0)
    dicts, detections = [], {}
    for image_id in range(1, num_images + 1):
        count = int(rng.randint(0, 9))
        corners = rng.uniform(0, 300, (count, 2))
        sides = np.exp(rng.uniform(np.log(8), np.log(250), (count, 2)))
        boxes = np.concatenate([corners, corners + sides], 1)
        classes = rng.randint(0, num_classes, count)
        crowds = rng.rand(count) < 0.1
        annotations = [
            {
                "bbox": b.tolist(),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(c),
                "iscrowd": int(k),
            }
            for b, c, k in zip(boxes, classes, crowds)
        ]
        record = {"file_name": f"{image_id}.png", "height": 600, "width": 600}
        dicts.append({**record, "image_id": image_id, "annotations": annotations})
        shaken = np.repeat(boxes, 2, 0) + rng.normal(0, 4, (2 * count, 4))
        invented = np.concatenate([rng.uniform(0, 200, (4, 2)), rng.uniform(220, 500, (4, 2))], 1)
        detections[image_id] = (
            np.concatenate([shaken, invented]).astype(np.float32),
            np.round(rng.rand(2 * count + 4), 3).astype(np.float32),
            np.concatenate([np.repeat(classes, 2), rng.randint(0, num_classes, 4)]),
        )
    return dicts, detections


def detected(boxes, scores, classes):
    instances = Instances((600, 600))
    instances.pred_boxes = Boxes(torch.as_tensor(boxes))
    instances.scores = torch.as_tensor(scores)
    instances.pred_classes = torch.as_tensor(classes)
    return {"instances": instances}


@contextlib.contextmanager
def scene_evaluator(ids=None, **options):
    """A COCOEvaluator for the scene, its output folder, the dicts and the detections."""
    name = "contract_scene"
    dicts, detections = _scene()
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(
        thing_classes=["a", "b", "c"],
        thing_dataset_id_to_contiguous_id=ids or {2: 0, 5: 1, 9: 2},
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield COCOEvaluator(name, output_dir=folder, **options), folder, dicts, detections
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def coco_numbers():
    results = {}
    for name, options, evaluate in (
        ("all", {}, {}),
        ("two per image", {"max_dets_per_image": 2}, {}),
        ("some images", {"distributed": False}, {"img_ids": [1, 2, 3, 4]}),
    ):
        with scene_evaluator(**options) as (evaluator, folder, dicts, detections):
            model = lambda batch: [detected(*detections[d["image_id"]]) for d in batch]  # noqa: E731
            loader = build_detection_test_loader(dicts, mapper=None, batch_size=5)
            evaluator.reset()
            for batch in loader:
                evaluator.process(batch, model(batch))
            results[name] = evaluator.evaluate(**evaluate)
            written = json.loads(Path(folder, "coco_instances_results.json").read_text())
            results[f"{name} files"] = sorted(
                f for f in os.listdir(folder) if not f.endswith(".lock")
            )
            results[f"{name} json"] = [len(written), written[:3]]
    with scene_evaluator() as (evaluator, _, dicts, _):
        evaluator.reset()
        results["nothing processed"] = evaluator.evaluate()
        empty = detected(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64))
        evaluator.process(dicts[:1], [empty])
        results["no detection"] = evaluator.evaluate()
    return results


# ---- engine -----------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class ContractModel(torch.nn.Module):
    """Two losses from the image's mean and its number of boxes; one fixed detection."""

    def __init__(self, cfg):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, batch):
        means = torch.stack([d["image"].float().mean((1, 2)) / 255 for d in batch])  # (B, 3)
        if not self.training:
            box = [[10.0, 10.0, 60.0, 50.0]]
            return [detected(box, [0.5], [0]) for _ in batch]
        targets = torch.tensor([[len(d["instances"]), d["image"].shape[1] / 100] for d in batch])
        error = (self.norm(self.linear(means)) - targets).square().mean(0)
        return {"loss_count": error[0], "loss_size": error[1]}


class ContractTrainer(DefaultTrainer):
    """A DefaultTrainer with an evaluator."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def trainer_cfg(output_dir, max_iter=3):
    cfg = mapper_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ContractModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("contract_tiny",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.MAX_ITER = max_iter
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.TEST.EVAL_PERIOD = 2
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.SEED = 3
    return cfg


def _layout(value, depth=4):
    """The keys of nested dicts, with the types of what they hold."""
    if isinstance(value, dict) and depth and all(isinstance(k, str) for k in value):
        return {key: _layout(item, depth - 1) for key, item in sorted(value.items())}
    return type(value).__name__


def _train(folder, max_iter, resume):
    cfg = trainer_cfg(folder, max_iter)
    seed_all_rng(cfg.SEED)
    trainer = ContractTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    start = trainer.start_iter
    trainer.train()
    weights = {key: value for key, value in trainer.model.state_dict().items()}
    return trainer, {"start": start, "weights": weights}


def trainer_run():
    with registered(), tempfile.TemporaryDirectory() as folder:
        trainer, first = _train(folder, 3, resume=False)
        hooks = [type(hook).__name__ for hook in trainer._hooks]
        checkpoint = torch.load(Path(folder, "model_final.pth"), weights_only=False)
        last = Path(folder, "last_checkpoint").read_text()
        _, second = _train(folder, 6, resume=True)
        lines = Path(folder, "metrics.json").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        files = sorted(
            str(path.relative_to(folder))
            for path in Path(folder).rglob("*")
            if path.is_file() and not path.name.startswith("events.")
        )
        untimed = ("loss_count", "loss_size", "total_loss", "lr", "iteration", "bbox/AP50")
        return {
            "hooks": hooks,
            "checkpoint": _layout(checkpoint),
            "scheduler": checkpoint["trainer"]["hooks"]["LRScheduler"],
            "last_checkpoint": last,
            "first": first,
            "second": second,
            "metric names": [sorted(line) for line in metrics],
            "metrics": [{k: line.get(k) for k in untimed} for line in metrics],
            "files": files,
        }


def make_trainer(losses=None, trainer_class=SimpleTrainer, **options):
    """A trainer of one weight, w -> {"a": w²·x, "b": w·x} on endless ones."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.5)
    forward = losses or (lambda w, x: {"a": (w**2 * x).sum(), "b": (w * x).sum()})
    model.forward = lambda x: forward(model.weight, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [torch.ones(1)] * 100
    return trainer_class(model, data, optimizer, **options)


def train_loader_order():
    with registered():
        cfg = trainer_cfg("unused")
        batches = {}
        for name, empty, grouping in (("plain", True, False), ("kept, grouped", False, True)):
            cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = empty
            cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
            np.random.seed(0)
            loader = build_detection_train_loader(cfg)
            batches[name] = [
                [[d["image_id"], list(d["image"].shape)] for d in batch]
                for batch in itertools.islice(iter(loader), 6)
            ]
        return batches


def scaled_config():
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.BASE_LR = 2.5e-5
    cfg.SOLVER.MAX_ITER = 270000
    cfg.SOLVER.STEPS = (210000, 250000)
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.SOLVER.CHECKPOINT_PERIOD = 5000
    cfg.TEST.EVAL_PERIOD = 7330
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    cfg.freeze()
    keys = "IMS_PER_BATCH BASE_LR MAX_ITER STEPS WARMUP_ITERS CHECKPOINT_PERIOD".split()
    scaled = {}
    for num_workers in (1, 3, 8, 16):
        new = DefaultTrainer.auto_scale_workers(cfg, num_workers)
        scaled[num_workers] = [
            *(new.SOLVER[key] for key in keys),
            new.TEST.EVAL_PERIOD,
            new.SOLVER.REFERENCE_WORLD_SIZE,
            new.is_frozen(),
        ]
    return scaled


def parser_options():
    parser = default_argument_parser()
    options = {
        action.dest: [
            list(action.option_strings),
            action.default,
            getattr(action.type, "__name__", None),
        ]
        for action in parser._actions
        if action.dest != "help"
    }
    parsed = vars(parser.parse_args("--num-gpus 2 --resume MODEL.DEVICE cpu X 1".split()))
    return {"options": options, "parsed": parsed}


def _in_each_process(path):
    """What a process of a launched job sees; the first writes all of it."""
    seen = {
        "rank": [comm.get_rank(), comm.get_local_rank(), comm.get_world_size()],
        "training": list(itertools.islice(iter(TrainingSampler(7, seed=1)), 10)),
        "inference": list(InferenceSampler(5)),
        "batch": [len(b) for b in itertools.islice(_two_batches(), 2)],
    }
    torch.manual_seed(0)
    # The real one's default device_ids is for GPUs only.
    on_cpu = {} if sparsenet.DETECTRON2 == "lite" else {"device_ids": None}
    model = create_ddp_model(torch.nn.Linear(1, 1), broadcast_buffers=False, **on_cpu)
    model(torch.full((1, 1), float(comm.get_rank()))).sum().backward()
    seen["mean gradient"] = model.module.weight.grad
    seeds = comm.all_gather(comm.shared_random_seed())
    seen["seeds agree"] = len(set(seeds)) == 1
    with scene_evaluator() as (evaluator, _, dicts, detections):
        loader = build_detection_test_loader(dicts, mapper=None)
        model = lambda batch: [detected(*detections[d["image_id"]]) for d in batch]  # noqa: E731
        seen["results"] = inference_on_dataset(model, loader, evaluator)
    gathered = comm.all_gather(jsonable(seen))
    if comm.is_main_process():
        Path(path).write_text(json.dumps(gathered))


def _two_batches():
    return iter(build_batch_data_loader(list(range(8)), TrainingSampler(8, seed=0), 4))


def launched():
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "seen.json"))
        launch(_in_each_process, 2, dist_url="auto", args=(path,))
        return json.loads(Path(path).read_text())
