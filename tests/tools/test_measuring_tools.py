"""The measuring and drawing tools through their command lines, on something tiny."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from sparsenet.config import load_config
from tools import (
    analyze_model,
    benchmark_backbone,
    benchmark_detector,
    plot_metrics,
    run_ablation,
    visualize_data,
    visualize_json_results,
)

ROOT = Path(__file__).resolve().parents[2]
CLASSIFIERS = ("imagenet", "artist")  # folders of YAMLs that are about no detector
CONFIGS = [
    path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if path.parent.name not in CLASSIFIERS and not path.name.startswith("Base-")
]
SAMPLE = str(ROOT / "configs/sample/sparse_rcnn_sparsenet_conv_nano_fpn_sample.yaml")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small images with bright bars on noise, and their annotations."""
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in (1, 2):
        pixels = rng.integers(60, 90, (256, 384, 3), dtype=np.uint8)
        for x, y in [(40, 40), (200, 120)]:
            pixels[y : y + 90, x : x + 40] = 230
            box = {"bbox": [x, y, 40, 90], "area": 3600, "iscrowd": 0, "category_id": 1}
            annotations.append({"id": len(annotations) + 1, "image_id": i, **box})
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "height": 256, "width": 384})
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def data_opts(scene: Path) -> list[str]:
    files = f'[["tools", "{scene / "annotations.json"}", "{scene}"]]'
    return [
        "DATASETS.COCO_FILES",
        files,
        "DATASETS.TRAIN",
        "('tools',)",
        "DATASETS.TEST",
        "('tools',)",
    ]


@pytest.fixture
def quick_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of zero: counts do not depend on them, and 100 million random numbers take long."""
    for name in (
        "kaiming_uniform_",
        "kaiming_normal_",
        "xavier_uniform_",
        "trunc_normal_",
        "normal_",
    ):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor.data.zero_())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_can_be_analysed(config: Path, quick_init: None, capsys) -> None:
    architecture = load_config(config).MODEL.META_ARCHITECTURE
    if architecture not in META_ARCH_REGISTRY:
        pytest.skip(f"needs the real Detectron2's {architecture}")
    tasks = ["--tasks", "params", "flops", "--input-size", "64", "96"]
    assert analyze_model.main(["--config-file", str(config), *tasks]) == 0
    out = capsys.readouterr().out
    assert "## params" in out and "## flops" in out
    assert "| total" in out
    not_counted = out.split("Not counted")[1].splitlines()[0]
    assert not re.search("linear|mm|convolution|attention", not_counted), not_counted


def test_all_tasks_and_overrides_behind_them(capsys) -> None:
    arguments = ["--config-file", SAMPLE, "--input-size", "64", "64", "--quiet"]
    tasks = ["--tasks", "flops", "params", "activations", "structure", "speed"]
    assert analyze_model.main([*arguments, *tasks, "MODEL.SparseRCNN.NUM_PROPOSALS", "5"]) == 0
    out = capsys.readouterr().out
    for task in tasks[1:]:
        assert f"## {task}" in out
    assert "(5, 96)" in out  # the overridden number of proposals
    assert "(bottom_up): SparseNet(" in out and "postprocessing" in out


def test_an_unknown_architecture_is_one_line(capsys) -> None:
    opts = ["MODEL.META_ARCHITECTURE", "OtherRCNN"]
    assert analyze_model.main(["--config-file", SAMPLE, "--tasks", "params", *opts]) == 2
    assert "must be one of" in capsys.readouterr().err


def test_an_image_and_weights_can_be_given(scene: Path, capsys) -> None:
    arguments = ["--config-file", SAMPLE, "--image", str(scene / "1.png"), "--tasks", "flops"]
    assert analyze_model.main([*arguments, "--input-size", "64", "64"]) == 0
    assert analyze_model.main([*arguments, "--use-weights"]) == 2
    assert "MODEL.WEIGHTS is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        analyze_model.main(["--config-file", SAMPLE, "--tasks", "flop"])


def test_benchmark_backbone(tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "backbone.json"
    arguments = ["--modules", "conv", "--sizes", "nano", "--designs", "corrected", "--quiet"]
    arguments += [
        "--keep",
        "1",
        "0.1",
        "--input-size",
        "64",
        "64",
        "--repetitions",
        "1",
        "--no-peer",
    ]
    assert benchmark_backbone.main([*arguments, "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "Share of time outside the local blocks" in out and "training step" in out
    content = json.loads(output.read_text())
    assert content["run"]["torch"] == torch.__version__ and content["input_size"] == [64, 64]
    assert len(content["results"]["fp32"]["inference"]) == 2
    assert benchmark_backbone.main([*arguments, "--designs", "other"]) == 2
    assert "error: MODEL.SPARSENET.DESIGN" in capsys.readouterr().err


def test_benchmark_detector(tmp_path: Path, capsys) -> None:
    output = tmp_path / "detector.json"
    arguments = ["--config-file", SAMPLE, "--input-size", "64", "64", "--repetitions", "1"]
    arguments += ["--quiet", "--num-objects", "2", "--output", str(output)]
    peer = "sparsenet.modeling.head.dynamic_head:DynamicHead"
    assert benchmark_detector.main([*arguments, "--peer", peer]) == 0
    assert {"run", "detection", "training", "heads"} == set(json.loads(output.read_text()))
    assert "ours, ms" in capsys.readouterr().out
    assert benchmark_detector.main([*arguments, "--no-training", "--peer", "nothing"]) == 2
    assert "MODULE:CALLABLE" in capsys.readouterr().err


def test_benchmark_detector_varies_keys(tmp_path: Path, capsys) -> None:
    output = tmp_path / "detector.json"
    arguments = ["--config-file", SAMPLE, "--input-size", "64", "64", "--repetitions", "1"]
    arguments += ["--quiet", "--no-training", "--output", str(output)]
    arguments += ["--vary", "MODEL.SPARSENET.NECK", "fpn", "sparse_fpn"]
    ratios = ["(1,1,1,1)", "(.3,.3,.3,.3)"]
    arguments += ["--vary", "MODEL.SPARSENET.KEEP_RATIO", *ratios]
    assert benchmark_detector.main(arguments) == 0
    names = [record["model"] for record in json.loads(output.read_text())["detection"]]
    stem = Path(SAMPLE).stem
    assert names == [f"{stem}, {neck}, {keep}" for neck in ("fpn", "sparse_fpn") for keep in ratios]
    gflops = [r["gflops"]["neck"] for r in json.loads(output.read_text())["detection"]]
    assert gflops[0] == gflops[1] and gflops[3] < gflops[2]
    assert benchmark_detector.main([*arguments, "--vary", "MODEL.ABSENT", "1"]) == 2
    assert "MODEL.ABSENT" in capsys.readouterr().err
    assert benchmark_detector.main([*arguments, "--vary", "MODEL.SPARSENET.DESIGN"]) == 2
    assert "at least one value" in capsys.readouterr().err


def test_visualize_data(scene: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--config-file", SAMPLE, "--num-images", "3", "--columns", "3", "--side", "100"]
    for source, height in (("annotations", 71), ("examples", 100)):
        path = tmp_path / f"{source}.png"
        options = ["--source", source, "--output", str(path), *data_opts(scene)]
        assert visualize_data.main([*arguments, *options]) == 0
        shown = 2 if source == "annotations" else 3
        assert cv2.imread(str(path)).shape[:2] == (pytest.approx(height, abs=4), 100 * shown)
    unknown = ["--output", str(tmp_path / "a.png"), "DATASETS.TRAIN", "('absent',)"]
    assert visualize_data.main([*arguments, *unknown]) == 2
    assert "'absent' must be registered" in capsys.readouterr().err


@pytest.mark.parametrize("is_tiled", [False, True])
@pytest.mark.parametrize("kind", ["MOSAIC", "MIXUP"])
def test_visualize_data_shows_mixed_examples(
    scene: Path, tmp_path: Path, kind: str, is_tiled: bool
) -> None:
    path = tmp_path / "examples.png"
    arguments = ["--config-file", SAMPLE, "--num-images", "2", "--columns", "2", "--side", "100"]
    arguments += ["--output", str(path), *data_opts(scene), f"INPUT.AUG.{kind}.PROB", "1.0"]
    arguments += ["INPUT.TILE.ENABLED", str(is_tiled), "INPUT.LETTERBOX", "0" if is_tiled else "96"]
    assert visualize_data.main(arguments) == 0
    assert cv2.imread(str(path)).shape == (100, 200, 3)


def test_visualize_json_results(scene: Path, tmp_path: Path, capsys) -> None:
    results = tmp_path / "results.json"
    found = {"image_id": 1, "category_id": 1, "bbox": [40, 40, 40, 90], "score": 0.8}
    results.write_text(json.dumps([found]))
    arguments = ["--config-file", SAMPLE, "--results", str(results), "--quiet", "--side", "192"]
    arguments += ["--output", str(tmp_path / "pictures"), *data_opts(scene)]
    assert visualize_json_results.main(arguments) == 0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["1_1.jpg", "2_2.jpg"]
    assert cv2.imread(str(pictures[0])).shape == (128, 192 * 2 + 6, 3)
    results.write_text('[{"image": 3}]')
    assert visualize_json_results.main(arguments) == 2
    assert "must be a list of COCO results" in capsys.readouterr().err


def test_plot_metrics(tmp_path: Path, capsys) -> None:
    line = {"iteration": 1, "total_loss": 2.0, "bbox/AP50": 3.0}
    (tmp_path / "metrics.json").write_text(json.dumps(line))
    output = tmp_path / "curves.png"
    assert plot_metrics.main([str(tmp_path), "--output", str(output)]) == 0
    assert cv2.imread(str(output)) is not None
    assert "total_loss, bbox/AP50" in capsys.readouterr().out
    assert plot_metrics.main([str(tmp_path / "absent"), "--output", str(output)]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_run_ablation(scene: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "projects/SparseNet"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = tmp_path / "ablation.yaml"
    file.write_text(
        f"config_file: {SAMPLE}\nseeds: [3]\nvariants: {{conv: }}\ncommon:\n"
        "  {SOLVER.MAX_ITER: 2, SOLVER.IMS_PER_BATCH: 2, SOLVER.WARMUP_ITERS: 1,\n"
        "  DATALOADER.NUM_WORKERS: 0, TEST.TILE.DOWNSAMPLES: '(1,)'}\n"
    )
    arguments = ["--file", str(file), "--output", str(tmp_path / "out"), "--quiet"]
    arguments += ["--repetitions", "1", *data_opts(scene)]
    assert run_ablation.main(arguments) == 0
    assert "training in" in capsys.readouterr().out
    assert run_ablation.main(arguments) == 0
    assert "training in" not in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert len(content["results"]["conv"]) == 1 and content["costs"][0]["gflops"]["total"] > 0
    assert "| conv" in (tmp_path / "out" / "ablation.md").read_text()
    assert run_ablation.main([*arguments, "SOLVER.BASE_LR", "0.1"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_ablation_that_is_shipped_loads(tmp_path: Path) -> None:
    path = ROOT / "projects/SparseNet/ablations/local_modules.yaml"
    assert len(run_ablation.read_ablation(path, tmp_path)) == 12
