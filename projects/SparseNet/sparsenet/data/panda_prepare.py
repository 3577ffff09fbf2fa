"""Prepares a PANDA folder: COCO files by scene, and tiled pyramids of the images on request."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from sparsenet.data.panda import (
    DEFAULT_VAL_SCENES,
    PANDA_TREE,
    PandaImage,
    load_panda_annotations,
    split_by_scene,
    to_coco,
)
from sparsenet.data.pyramids import save_pyramid, show_progress
from sparsenet.errors import AnnotationError, DatasetNotFoundError, ImageReadError, OutputError
from sparsenet.files import write_atomically, write_text
from sparsenet.tiling.vips_reader import import_pyvips

logger = logging.getLogger(__name__)

_DATASETS = {"person": ("person",), "vehicle": ("vehicle",), "all": ("person", "vehicle")}


def prepare_panda(
    root: Path,
    *,
    person_box: str = "full body",
    val_scenes: Sequence[str] = DEFAULT_VAL_SCENES,
    pyramids: bool = False,
    quality: int = 90,
    quiet: bool = False,
) -> dict[str, int]:
    """Writes ``annotations/panda_{person,vehicle,all}_{train,val}.json`` below ``root``.

    Datasets whose annotation file is missing are not written.

    Args:
        root: PANDA's folder; see ``PANDA_TREE``.
        person_box: ``"full body"``, ``"visible body"`` or ``"head"``.
        val_scenes: Scenes (or their numbers) for validation, the others are for training;
            ``("all",)`` puts all into validation.
        pyramids: Also write each image as tiled pyramidal TIFF; those that exist are kept.
        quality: JPEG quality inside the pyramids.
        quiet: No progress bars.

    Returns:
        Number of annotations, ignore boxes included, by dataset name.

    Raises:
        DatasetNotFoundError: If annotation files or images are missing.
        AnnotationError: If an annotation is malformed.
        OutputError: If a file cannot be written.
    """
    images = load_panda_annotations(root, person_box=person_box)
    train, val = split_by_scene(images, val_scenes)
    check_images(root, images)
    written: dict[str, int] = {}
    try:
        (root / "annotations").mkdir(exist_ok=True)
        for subject, labelled in _DATASETS.items():
            if not any(set(labelled) <= set(i.subjects) for i in images):
                logger.warning("panda_%s_* are not written: not labelled", subject)
                continue
            for split, part in (("train", train), ("val", val)):
                content = to_coco(part, labelled)
                content["info"] = {"description": f"PANDA, {person_box}", "split": split}
                path = root / "annotations" / f"panda_{subject}_{split}.json"
                write_text(path, json.dumps(content))
                written[path.stem] = len(content["annotations"])
        if pyramids:
            write_pyramids(root, images, quality=quality, quiet=quiet)
    except OSError as error:
        if isinstance(error, ImageReadError):
            raise
        raise OutputError(f"{root} must be a folder that can be written: {error}.") from error
    return written


def check_images(root: Path, images: Sequence[PandaImage]) -> None:
    """Refuses annotations of images that are not there.

    Raises:
        DatasetNotFoundError: Naming the first missing files and the expected tree.
    """
    missing = [i.file_name for i in images if not (root / "image_train" / i.file_name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise DatasetNotFoundError(
            f"All {len(images)} annotated images must be in {root / 'image_train'}; {len(missing)} "
            f"are missing: {shown}. Unpack the official archives there. Expected is:\n{PANDA_TREE}"
        )


def pyramid_path(root: Path, image: PandaImage) -> Path:
    """Where the pyramid of an image is; training and evaluation look there first."""
    return (root / "image_train" / "pyramids" / image.file_name).with_suffix(".tif")


def write_pyramids(
    root: Path, images: Sequence[PandaImage], *, quality: int = 90, quiet: bool = False
) -> None:
    """Writes each image as tiled pyramidal TIFF, decoding it once in bounded memory.

    Raises:
        ImageReadError: If an image cannot be decoded to its end.
        AnnotationError: If an image is not of its annotated size.
    """
    vips = import_pyvips()
    for image in tqdm(images, desc="pyramids", unit="image", disable=quiet):
        source, target = root / "image_train" / image.file_name, pyramid_path(root, image)
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            pixels = vips.Image.new_from_file(str(source), access="sequential", fail_on="truncated")
            if (pixels.height, pixels.width) != image.size:
                raise AnnotationError(
                    f"{source} must be {image.size} (height, width) as annotated, but is "
                    f"{(pixels.height, pixels.width)}. Do not resize PANDA's images."
                )
            with show_progress(pixels, image.file_name, quiet):
                write_atomically(target, partial(save_pyramid, pixels, quality=quality))
        except vips.Error as error:
            raise ImageReadError(
                f"{source} must be a whole image, but its pyramid failed: {error}. "
                "Download it again, or free disk space."
            ) from error
