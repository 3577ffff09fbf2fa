#!/usr/bin/env python
"""Ranks vectors by their cosine similarity to one of them.

    python tools/compare_vectors.py --query-vector query.npy --reference-vectors a.npy b.npy \\
        --top-k 3 --normalize --output similarity.json
    python tools/compare_vectors.py --query-vector output/cluster/features.npy \\
        --query-name Baroque/storm.jpg --reference-vectors output/cluster/features.npy

Vectors are .npy files with one (D,) or several (N, D) of them; a folder stands for its .npy files.
The rows of a features.npy are called by the image_names.txt beside it. Exit status: 0; 2 on any
error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparsenet.embedding.compare import (
    comparison,
    rank_by_similarity,
    read_query,
    read_references,
)
from sparsenet.embedding.index import BACKENDS
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_json


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--query-vector", type=Path, required=True, metavar="FILE")
    add("--query-name", metavar="IMAGE", help="which row of a features.npy is the query")
    add("--reference-vectors", type=Path, nargs="+", required=True, metavar="FILE_OR_FOLDER")
    add("--top-k", type=int, default=5, help="default: %(default)s")
    add("--normalize", action="store_true", help="refuse zero vectors, which have no direction")
    add("--backend", choices=BACKENDS, default="auto", help="of the search; default: %(default)s")
    add("--output", type=Path, metavar="FILE", help="also write the ranking as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compares; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        query = read_query(args.query_vector, args.query_name)
        vectors, entries = read_references(args.reference_vectors)
        ranking = rank_by_similarity(
            query, vectors, args.top_k, refuse_zeros=args.normalize, backend=args.backend
        )
        if args.output:
            make_folder(args.output.parent)
            query_name = args.query_name or str(args.query_vector)
            write_json(args.output, comparison(query_name, ranking, entries))
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row, similarity in ranking:
        print(f"{similarity:7.4f}  {'  '.join(entries[row].values())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
