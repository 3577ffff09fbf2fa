#!/usr/bin/env python
"""Composes gigapixel scenes with exact truth.

With figures and ground drawn by our own code, nothing to download:

    python datasets/make_scene.py --output output/demo/scene --size 12288 17408 --seed 7

With real cut-outs on real ground, placed by a real PANDA layout:

    python datasets/make_scene.py --output output/scenes/train --num-scenes 6 --split train \\
        --cutouts persons/instances.json cars/instances.json --ground ground/ \\
        --layout panda_annotations.json --scale 0.5 --format tiff
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparsenet.data.scenes.recipe import SceneRecipe, make_scenes
from sparsenet.data.scenes.scene import TruthOptions
from sparsenet.errors import SparseNetError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for images, annotations.json, sheets")
    add("--num-scenes", type=int, default=1, help="scene i has seed SEED + i")
    add("--seed", type=int, default=0)
    add("--format", nargs="+", default=["jpeg", "tiff"], help="jpeg, tiff (tiled pyramid) or both")
    add("--quality", type=int, default=88, help="JPEG quality of both formats")
    add("--min-visible", type=float, default=0.35, help="less visible objects are ignored")
    add("--min-side", type=int, default=12, help="smaller objects are ignored; pixels")
    add("--quiet", action="store_true", help="no progress bars")
    drawn = parser.add_argument_group("drawn scenes (the default)")
    drawn.add_argument(
        "--size", type=int, nargs=2, default=[12288, 17408], metavar=("HEIGHT", "WIDTH")
    )
    drawn.add_argument("--density", type=float, default=1.0, help="factor on the number of objects")
    real = parser.add_argument_group("real cut-outs")
    real.add_argument("--cutouts", type=Path, nargs="+", default=[], metavar="COCO_JSON")
    real.add_argument("--ground", type=Path, metavar="FOLDER", help="photos of the ground")
    real.add_argument("--layout", type=Path, metavar="COCO_JSON", help="boxes of real images")
    real.add_argument("--layout-image", help="file name or position; default: one after another")
    real.add_argument("--scale", type=float, default=1.0, help="factor on the layout's size")
    real.add_argument(
        "--split",
        choices=["train", "eval", "all"],
        default="all",
        help="use only that part of the cut-outs' photos, of the layout's scenes and of the ground "
        "photos; the parts share nothing (ordered by the SHA-1 of their names)",
    )
    real.add_argument("--train-share", type=float, default=0.7, help="of each kind of source")
    real.add_argument(
        "--same-source",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="cut-out photos whose names begin alike are never divided (frames of one video)",
    )
    return parser


def read_recipe(args: argparse.Namespace) -> SceneRecipe:
    return SceneRecipe(
        size=(args.size[0], args.size[1]),
        density=args.density,
        cutouts=tuple(args.cutouts),
        ground=args.ground,
        layout=args.layout,
        layout_image=args.layout_image,
        scale=args.scale,
        split=args.split,
        train_share=args.train_share,
        same_source=tuple(args.same_source),
    )


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(arguments)
    try:
        content = make_scenes(
            read_recipe(args),
            args.output,
            seed=args.seed,
            num_scenes=args.num_scenes,
            formats=args.format,
            quality=args.quality,
            truth=TruthOptions(args.min_visible, args.min_side),
            quiet=args.quiet,
        )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for image in content["images"]:
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        kept = [a for a in mine if not a["iscrowd"]]
        print(
            f"{args.output / image['file_name']}: {image['width']} x {image['height']} px, "
            f"{sum(a['category_id'] == 1 for a in kept)} persons, "
            f"{sum(a['category_id'] == 2 for a in kept)} vehicles, "
            f"{len(mine) - len(kept)} ignored; seed {image['seed']}; "
            f"contact sheet {args.output / image['contact_sheet']}"
        )
    print(f"truth: {args.output / 'annotations.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
