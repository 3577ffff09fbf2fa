"""Folders of works, one per artist, divided into the folders that training and validation read.

Which work goes where depends on the seed and on the artist's own files alone: neither the order in
which a disk lists them nor other artists change it.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from sparsenet.data.class_mapping import CLASS_MAPPING_FILE, write_class_mapping
from sparsenet.data.photo import PHOTO_SUFFIXES, find_photos, read_photo
from sparsenet.errors import (
    ConfigError,
    DatasetError,
    DatasetNotFoundError,
    ImageReadError,
    OutputError,
)
from sparsenet.files import write_text

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
INFO_FILE = "dataset_info.json"
# Enough to find a damaged file; a JPEG is then decoded at an eighth of its size.
_CHECK_SIDE = 32


@dataclass(frozen=True)
class SplitOptions:
    """How works are divided.

    Args:
        val_ratio: Share of each artist's works for validation, rounded down, but at least one.
        min_images: Artists with fewer readable works are left out; at least 2.
        seed: Chooses the works.
        suffixes: Endings of image files, in any case; of ``PHOTO_SUFFIXES``.
        use_symlinks: Link to the works instead of copying them, where the system lets us.

    Raises:
        ConfigError: If a value is out of range.
    """

    val_ratio: float = 0.2
    min_images: int = 10
    seed: int = 42
    suffixes: Sequence[str] = PHOTO_SUFFIXES
    use_symlinks: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.val_ratio < 1 or self.min_images < 2:
            raise ConfigError(
                "The validation ratio must be between 0 and 1 and the least number of images at "
                f"least 2 (one to train, one to validate), got {self.val_ratio} and "
                f"{self.min_images}."
            )
        unknown = [suffix for suffix in self.suffixes if suffix.lower() not in PHOTO_SUFFIXES]
        if unknown or not self.suffixes:
            raise ConfigError(
                f"Image extensions must be among {', '.join(PHOTO_SUFFIXES)}, which training "
                f"reads, got {', '.join(unknown) or 'none'}. Convert other files."
            )


@dataclass(frozen=True)
class ArtistSplit:
    """What was divided how.

    Args:
        works: By split and artist, sorted: the files.
        too_few: Artists left out, and how many works they have.
        unreadable: Files left out, and why.
    """

    works: Mapping[str, Mapping[str, Sequence[Path]]]
    too_few: Mapping[str, int] = field(default_factory=dict)
    unreadable: Mapping[Path, str] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """The artists in alphabetical order, which numbers them."""
        return sorted(self.works["train"])

    def count(self, split: str) -> int:
        """Number of works of a split."""
        return sum(map(len, self.works[split].values()))


def split_artists(
    source: Path, options: SplitOptions | None = None, *, quiet: bool = False
) -> ArtistSplit:
    """Reads ``source/<artist>/**`` and divides each artist's works; nothing is written.

    Raises:
        DatasetNotFoundError: If the folder is missing.
        DatasetError: If no artist has enough works, two names differ in case only, or a name is
            not UTF-8.
    """
    options = options or SplitOptions()
    artists = _artist_folders(source)
    photos = {artist.name: find_photos(artist, options.suffixes) for artist in artists}
    unreadable: dict[Path, str] = {}
    works: dict[str, dict[str, list[Path]]] = {split: {} for split in SPLITS}
    too_few: dict[str, int] = {}
    bar = tqdm(total=sum(map(len, photos.values())), desc="checking", disable=quiet, leave=False)
    for name, paths in photos.items():
        good = [path for path in paths if _is_readable(path, source, unreadable, bar)]
        if len(good) < options.min_images:
            too_few[name] = len(good)
            continue
        random.Random(f"{options.seed}/{name}").shuffle(good)
        num_val = max(1, int(len(good) * options.val_ratio))
        works["train"][name], works["val"][name] = sorted(good[num_val:]), sorted(good[:num_val])
    bar.close()
    if not works["train"]:
        raise DatasetError(
            f"At least one folder in {source} must hold {options.min_images} readable images; "
            f"found {dict(list(too_few.items())[:10])}. Lower --min-images, or check that each "
            "artist has a folder."
        )
    return ArtistSplit(works, too_few, unreadable)


def _artist_folders(source: Path) -> list[Path]:
    if not source.is_dir():
        raise DatasetNotFoundError(
            f"The works must be in folders SOURCE/<artist>/, {source} is no folder."
        )
    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    by_name: dict[str, Path] = {}
    for folder in folders:
        if not _is_text(folder.name):
            raise DatasetError(
                f"Artists must have names in UTF-8, got the folder {folder.name!r}. Rename it."
            )
        other = by_name.setdefault(folder.name.casefold(), folder)
        if other != folder:
            raise DatasetError(
                f"Artists must differ in more than case, got {other.name!r} and {folder.name!r}: "
                "many disks cannot hold both. Rename or join the folders."
            )
    return folders


def _is_text(name: str) -> bool:
    """Whether a name of the disk can be written into a UTF-8 file."""
    return name.encode("utf-8", "ignore").decode() == name


def _is_readable(path: Path, source: Path, unreadable: dict[Path, str], bar: tqdm) -> bool:
    bar.update()
    try:
        if not _is_text(str(path.relative_to(source))):
            raise ImageReadError(f"{str(path)!r} must have a name in UTF-8. Rename it.")
        read_photo(path, min_side=_CHECK_SIDE)
    except ImageReadError as error:
        logger.warning("Left out: %s", error)
        unreadable[path] = str(error)
        return False
    return True


def write_artist_split(
    split: ArtistSplit,
    source: Path,
    output: Path,
    options: SplitOptions,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Writes the folders and the four files that describe them.

    They are written beside ``output`` and moved there when complete.

    Args:
        split: From :func:`split_artists` of ``source``.
        source: The works.
        output: Gets ``train/``, ``val/``, ``class_mapping.csv``, ``class_names.json``,
            ``dataset_info.json`` and ``split_info.txt``.
        options: As given to :func:`split_artists`.
        overwrite: Replaces an older data set at ``output``.
        quiet: No progress bar.

    Raises:
        OutputError: If ``output`` exists and may not be replaced, or cannot be written.
    """
    check_output(source, output, overwrite=overwrite)
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        placed = _place_works(split, source, part, options.use_symlinks, quiet)
        _write_descriptions(split, source, part, options, placed)
        if output.exists():
            shutil.rmtree(output)
        part.rename(output)
    except OSError as error:
        raise OutputError(f"{output} must be a folder that can be written: {error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_output(source: Path, output: Path, *, overwrite: bool) -> None:
    """Refuses to write where something would be lost.

    Raises:
        OutputError: If ``output`` exists without consent, is no data set of ours, or shares files
            with ``source``.
    """
    inside = {source.resolve(), *source.resolve().parents} & {output.resolve()}
    if inside or source.resolve() in output.resolve().parents:
        raise OutputError(
            f"The data set must lie outside the works, got {output} for the works in {source}."
        )
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise OutputError(
            f"{output} exists and is kept. Choose another --output-dir, or pass --overwrite to "
            "replace it."
        )
    if not (output / INFO_FILE).is_file():
        raise OutputError(
            f"Only a folder that this command wrote is replaced; {output} has no {INFO_FILE}. "
            "Remove it by hand or choose another --output-dir."
        )


def _place_works(
    split: ArtistSplit, source: Path, folder: Path, use_symlinks: bool, quiet: bool
) -> list[tuple[str, str]]:
    """Puts every work in its place; returns (new path, path in ``source``) of each."""
    placed = []
    total = sum(map(split.count, SPLITS))
    with tqdm(total=total, desc="writing", disable=quiet, leave=False) as bar:
        for name in SPLITS:
            for artist, paths in split.works[name].items():
                target = folder / name / artist
                target.mkdir(parents=True)
                for path, file_name in zip(paths, unique_names(paths)):
                    _place(path, target / file_name, use_symlinks)
                    placed.append(
                        (f"{name}/{artist}/{file_name}", path.relative_to(source).as_posix())
                    )
                    bar.update()
    return placed


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names for one folder; ``_1``, ``_2`` … tell apart those that differ in case at most."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.name, 0
        while name.casefold() in taken:
            number += 1
            name = f"{path.stem}_{number}{path.suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _place(path: Path, target: Path, use_symlinks: bool) -> None:
    if use_symlinks:
        try:
            target.symlink_to(path.resolve())
            return
        except OSError as error:
            logger.warning("%s is copied: linking failed (%s).", path, error)
    shutil.copy2(path, target)


def _write_descriptions(
    split: ArtistSplit,
    source: Path,
    folder: Path,
    options: SplitOptions,
    placed: Sequence[tuple[str, str]],
) -> None:
    names = split.class_names
    counts = {s: {artist: len(split.works[s][artist]) for artist in names} for s in SPLITS}
    write_class_mapping(folder / CLASS_MAPPING_FILE, names)
    _write_json(folder / "class_names.json", {str(i): name for i, name in enumerate(names)})
    info = {
        "n_classes": len(names),
        "class_names": names,
        "class_to_idx": {name: i for i, name in enumerate(names)},
        "train_images": split.count("train"),
        "val_images": split.count("val"),
        "total_images": sum(map(split.count, SPLITS)),
        "train_per_class": counts["train"],
        "val_per_class": counts["val"],
        "val_ratio": options.val_ratio,
        "min_images": options.min_images,
        "seed": options.seed,
        "too_few_images": dict(split.too_few),
        "unreadable": sorted(
            path.relative_to(source).as_posix().encode("utf-8", "backslashreplace").decode()
            for path in split.unreadable
        ),
    }
    _write_json(folder / INFO_FILE, info)
    lines = [f"seed {options.seed}, validation ratio {options.val_ratio}"]
    for name in SPLITS:
        lines += ["", f"{name}:", *(f"  {artist}: {n}" for artist, n in counts[name].items())]
    lines += ["", "files:", *(f"  {new} <- {old}" for new, old in placed)]
    write_text(folder / "split_info.txt", "\n".join(lines) + "\n")


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
