"""Times reading a large image, without any network: how near the tile stream comes to libvips.

Each way of reading runs in a process of its own, so that its peak memory is its own::

    python tools/benchmark_reading.py scan.jpg --repeats 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from sparsenet.errors import SparseNetError
from sparsenet.tiling import Tile, TileGrid, open_image, stream_tiles
from sparsenet.tiling.vips_reader import import_pyvips

_ROWS = 8  # per call of libvips, as our reader


def read_with_libvips(args: argparse.Namespace) -> int:
    """libvips' own sequential pass: rows come and go."""
    pyvips = import_pyvips()
    image = pyvips.Image.new_from_file(args.image, access="sequential")
    region = pyvips.Region.new(image)
    for y in range(0, image.height, _ROWS):
        region.fetch(0, y, image.width, min(_ROWS, image.height - y))
    return 0


def read_bands(args: argparse.Namespace) -> int:
    """Our rows: 8-bit sRGB, upright."""
    for _ in open_image(args.image).bands(64):
        pass
    return 0


def read_tiles(
    *downsamples: int, wanted: Callable[[Tile], bool] | None = None
) -> Callable[[argparse.Namespace], int]:
    """Tiles of one or more downsamples from one pass."""

    def read(args: argparse.Namespace) -> int:
        reader = open_image(args.image)
        grids = [TileGrid(reader.size, args.tile_size, args.overlap, d) for d in downsamples]
        return sum(1 for _ in stream_tiles(reader, grids, wanted=wanted))

    return read


CASES = {
    "libvips, rows": read_with_libvips,
    "bands": read_bands,
    "tiles at 1": read_tiles(1),
    "tiles at 1 and 4": read_tiles(1, 4),
    "tiles at 4": read_tiles(4),
    "one tile in ten at 1": read_tiles(1, wanted=lambda t: (7 * t.row + 3 * t.column) % 10 == 0),
}


def peak_memory() -> float:
    """Most memory that this process ever held, MB.

    Not ``ru_maxrss``, which on Linux begins with the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def run_case(args: argparse.Namespace) -> None:
    """Reads the image in one way and prints what it took."""
    start, start_cpu = time.perf_counter(), time.process_time()
    tiles = CASES[args.case](args)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    result = {"tiles": tiles, "s": seconds, "CPU s": cpu_seconds, "peak MB": peak_memory()}
    print(json.dumps(result))


def measure(argv: list[str], case: str, repeats: int) -> dict[str, float]:
    """Medians over processes that read the image in one way."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, *argv, "--case", case]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(output))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main(argv: list[str] | None = None) -> int:
    """Measures all ways, or one; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", help="file to read; libvips must be able to read it, too")
    parser.add_argument("--tile-size", type=int, default=1024)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="processes per row; medians count")
    parser.add_argument("--case", choices=CASES, help="one row only, once, as JSON")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    try:
        height, width = open_image(args.image).size
        if args.case:
            run_case(args)
            return 0
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = {case: measure(argv, case, args.repeats) for case in CASES}
    print(f"{args.image}: {width:,} × {height:,} px, {width * height / 1e6:,.1f} MP")
    table = [[case, *row.values()] for case, row in rows.items()]
    print(tabulate(table, ["way", *rows["bands"]], floatfmt=("", ".0f", ".2f", ".2f", ".0f")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
