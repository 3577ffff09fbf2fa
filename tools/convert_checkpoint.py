#!/usr/bin/env python
"""Keeps only the weights of a training checkpoint, in half precision on request.

    python tools/convert_checkpoint.py output/run/model_final.pth weights.pth --half \\
        --class-names person vehicle
    python tools/convert_checkpoint.py swin_t.pth backbone.pth --from swin \\
        --config-file configs/panda/sparse_rcnn_sparsenet_attention_tiny_fpn_12e_faithful.yaml
    python tools/convert_checkpoint.py resnet50.pth r50.pth --from torchvision
    python tools/convert_checkpoint.py r50_100pro_3x_model.pth weights.pth --from sparsercnn \\
        --config-file configs/coco/sparsercnn.res50.100pro.3x.yaml

Half-precision files load into full-precision models. ``--from`` reads another project's names;
with ``--config-file`` the model of that file says what it can use of the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import sparsenet.modeling  # noqa: F401  (makes detectron2 importable, registers the models)

# isort: split
import torch
from detectron2.modeling import build_model

from sparsenet.config import load_config
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_atomically
from sparsenet.modeling.checkpoint import copy_state, read_checkpoint
from sparsenet.modeling.key_conversion import CONVERSIONS, convert_state


def main(argv: list[str] | None = None) -> int:
    """Converts one file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--half", action="store_true", help="store float32 tensors as float16")
    parser.add_argument(
        "--class-names",
        nargs="+",
        default=[],
        help="stored for demos without data (default: the input's)",
    )
    parser.add_argument("--from", dest="source", choices=CONVERSIONS, help="whose names to read")
    parser.add_argument(
        "--prefix", default="backbone.bottom_up.", help="put before the names that --from converts"
    )
    parser.add_argument("--config-file", type=Path, help="report what fits the model of this file")
    parser.add_argument("--trust-checkpoint", action="store_true", help="allow pickles as input")
    args = parser.parse_args(argv)
    try:
        checkpoint = read_checkpoint(args.input, trust=args.trust_checkpoint)
        state = checkpoint["model"]
        if args.source:
            conversion = convert_state(state, args.source, prefix=args.prefix)
            state = conversion.state
            print(f"not used of {args.input}: {', '.join(conversion.unused) or 'nothing'}")
        if args.config_file:
            model = build_model(load_config(args.config_file, ["MODEL.DEVICE", "cpu"]))
            print(copy_state(model, state, source=str(args.input)))
        if args.half:
            state = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
        content = {"model": state}
        if class_names := args.class_names or checkpoint.get("class_names"):
            content["class_names"] = class_names
        make_folder(args.output.parent)
        write_atomically(args.output, lambda part: torch.save(content, part))
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = sum(tensor.numel() for tensor in state.values())
    print(
        f"{args.output}: {len(state)} tensors, {count:,} values, {args.output.stat().st_size:,} B"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
