#!/usr/bin/env python
"""Times whole detectors by part, side by side in one run.

    python tools/benchmark_detector.py --config-file configs/a.yaml configs/b.yaml \\
        --input-size 800 1280 --output output/benchmark/detectors.json
    python tools/benchmark_detector.py --config-file configs/….yaml \\
        --vary MODEL.SPARSENET.KEEP_RATIO "(1,1,1,1)" "(.1,.1,.1,.1)" \\
        --vary MODEL.SPARSENET.NECK fpn sparse_fpn
    python tools/benchmark_detector.py --config-file configs/….yaml \\
        --peer sparsenet.analysis.reference_head:ReferenceHead

``--vary`` times each configuration with each value of a key, with several keys all combinations.
``--peer`` times another head on the inputs and weights of the first configuration's own; the one
above is Sparse R-CNN's, step by step. Its callable gets the configuration and
``{map name: ShapeSpec}`` and returns a module that takes (maps, boxes (N, P, 4), proposals
(N, P, d)) and has parameters of the same names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsenet.analysis.detector_speed import DetectorOptions, measure_detectors
from sparsenet.analysis.detector_tables import detector_table, head_table, training_table
from sparsenet.analysis.hardware import describe_run, one_line
from sparsenet.analysis.head_speed import load_peer, measure_heads
from sparsenet.analysis.inputs import default_input_size, random_batch
from sparsenet.analysis.parts import build_model_on
from sparsenet.analysis.speed import PRECISIONS, pick_device
from sparsenet.config import load_config
from sparsenet.errors import ConfigError, SparseNetError
from sparsenet.files import make_folder, write_bytes

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, nargs="+", metavar="YAML")
    add("--input-size", nargs=2, type=int, metavar=("H", "W"), help="default: a tile, or 800 1280")
    add("--batch-size", type=int, default=1)
    add("--num-objects", type=int, default=20, help="per image, in the training step")
    add("--no-training", action="store_true", help="time detection alone")
    add("--vary", nargs="+", action="append", default=[], metavar=("KEY", "VALUE"))
    add("--peer", metavar="MODULE:CALLABLE", help="another head to compare with")
    add("--device", default="cpu", help="cpu or cuda")
    add("--precision", default="fp32", choices=PRECISIONS)
    add("--repetitions", type=int, default=5)
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--output", type=Path, help="JSON file")
    add("--quiet", action="store_true", help="no progress bars")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... for all configurations")
    return parser


def load_variants(args: argparse.Namespace) -> dict[str, CfgNode]:
    """Each configuration with each combination of the varied values, by name."""
    for key, *values in args.vary:
        if not values:
            raise ConfigError(f"--vary {key} must be followed by at least one value; got none.")
    configs = {}
    for name in args.config_file:
        for values in itertools.product(*(values for _, *values in args.vary)):
            opts = itertools.chain(*zip((key for key, *_ in args.vary), values))
            label = ", ".join([Path(name).stem, *values])
            configs[label] = load_config(name, [*args.opts, *opts])
    return configs


def measure(configs: dict[str, CfgNode], args: argparse.Namespace) -> dict[str, Any]:
    """All records, printed as tables."""
    device = pick_device(args.device)
    options = DetectorOptions(device, args.precision, args.repetitions, args.quiet)
    models = {name: build_model_on(cfg, device) for name, cfg in configs.items()}
    batches = {
        name: random_batch(
            cfg,
            tuple(args.input_size or default_input_size(cfg)),
            batch_size=args.batch_size,
            num_objects=args.num_objects,
        )
        for name, cfg in configs.items()
    }
    records: dict[str, Any] = {"detection": measure_detectors(models, batches, options)}
    print(f"Milliseconds of a batch of {args.batch_size} (GFLOPs of an image), {args.precision}:\n")
    print(detector_table(records["detection"]))
    if not args.no_training:
        records["training"] = measure_detectors(models, batches, options, is_training=True)
        print(f"\n{training_table(records['training'])}")
    if args.peer:
        name = next(iter(models))
        peer = load_peer(args.peer)
        records["heads"] = measure_heads(configs[name], models[name], batches[name], peer, options)
        print(f"\n{head_table(records['heads'])}")
    return records


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        run = describe_run(pick_device(args.device))
        results = measure(load_variants(args), args)
        if args.output:
            make_folder(args.output.parent)
            write_bytes(args.output, json.dumps({"run": run, **results}, indent=1).encode())
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{one_line(run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
