#!/usr/bin/env python
"""Groups the images of a folder by their embeddings.

    python tools/cluster_features.py --images-dir paintings/ --num-clusters 6 \\
        --checkpoint output/artist/model_best.pth --output-dir output/cluster
    python tools/cluster_features.py --images-dir paintings/ --num-clusters auto \\
        --labels-from-folders --features output/cluster/features.npy --output-dir output/cluster

Writes features.npy and image_names.txt, unless --features has them; cluster_assignments.json,
sheets/cluster_NNN.jpg for each cluster and gallery/index.html, which also shows nearest neighbours;
metrics.json where the folders are the classes. Exit status: 0; 2 on any error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from sparsenet.embedding.cluster import Clusters, cluster, cluster_by_silhouette
from sparsenet.embedding.extract import Embeddings, embed_folder
from sparsenet.embedding.files import load_features, save_features
from sparsenet.embedding.gallery import save_pictures
from sparsenet.embedding.index import BACKENDS
from sparsenet.embedding.metrics import evaluate
from sparsenet.embedding.model import load_embedder
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_json


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images-dir", type=Path, required=True, help="images, in any folders")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="weights, as model_best.pth")
    source.add_argument("--features", type=Path, help="features.npy of an earlier run instead")
    add("--model", help="of timm's registry, as lsnet_t_artist; default: what was trained")
    add("--num-clusters", default="5", help="or auto: by silhouette; default: %(default)s")
    add("--max-clusters", type=int, default=20, help="that auto tries; default: %(default)s")
    add("--normalize", action="store_true", help="cluster directions, as cosine compares them")
    add("--labels-from-folders", action="store_true", help="folders are classes: write metrics")
    add("--output-dir", type=Path, default=Path("output/cluster"), help="default: %(default)s")
    add("--no-pictures", action="store_true", help="no contact sheets and no gallery")
    add("--backend", choices=BACKENDS, default="auto", help="of neighbours; default: %(default)s")
    add("--seed", type=int, default=42, help="of k-means; default: %(default)s")
    add("--batch-size", type=int, default=64, help="default: %(default)s")
    add("--num-workers", type=int, default=0, help="processes that decode; default: %(default)s")
    add("--input-size", type=int, help="pixels; default: that of the training")
    add("--device", default="auto", help="auto, cpu or cuda; default: %(default)s")
    add("--trust-checkpoint", action="store_true", help="allow pickles")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Embeds and clusters; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.num_clusters != "auto" and not args.num_clusters.isdecimal():
        parser.error(f"--num-clusters must be a number or auto, got {args.num_clusters}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        make_folder(args.output_dir)
        found = load_features(args.features) if args.features else embed(args)
        labels = found.labels if args.labels_from_folders else None
        clusters = cluster_rows(found, args)
        write_json(args.output_dir / "cluster_assignments.json", clusters.to_dict(found.names))
        metrics: dict[str, float] = {}
        if labels:
            metrics = evaluate(found.features, clusters.assignments, labels)
            write_json(args.output_dir / "metrics.json", metrics)
        shown: dict[str, Any] = {"labels": labels, "metrics": metrics, "backend": args.backend}
        if not args.no_pictures:
            save_pictures(
                found, clusters, args.images_dir, args.output_dir, quiet=args.quiet, **shown
            )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in found.failures:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    print(f"{args.output_dir}: {len(found.names)} images in {len(clusters.members())} clusters")
    for name, value in metrics.items():
        print(f"{name:>12}  {value:.3f}" if isinstance(value, float) else f"{name:>12}  {value}")
    return 0


def embed(args: argparse.Namespace) -> Embeddings:
    embedder = load_embedder(
        args.model,
        args.checkpoint,
        input_size=args.input_size,
        device=args.device,
        trust=args.trust_checkpoint,
    )
    limits = {"batch_size": args.batch_size, "num_workers": args.num_workers, "quiet": args.quiet}
    found = embed_folder(embedder, args.images_dir, **limits)
    save_features(args.output_dir, found)  # at once: it took long, and clustering may fail
    return found


def cluster_rows(found: Embeddings, args: argparse.Namespace) -> Clusters:
    how = {"seed": args.seed, "normalize": args.normalize}
    if args.num_clusters == "auto":
        return cluster_by_silhouette(found.features, range(2, args.max_clusters + 1), **how)
    return cluster(found.features, int(args.num_clusters), **how)


if __name__ == "__main__":
    sys.exit(main())
