"""Reads Pascal VOC annotations, one xml file per image, of VOC itself or of a labelling tool.

Corners are pixels counted from 1, both inclusive: a box reaches from ``xmin - 1`` to ``xmax``.
Differs from ``detectron2.data.datasets.pascal_voc`` in: classes are those of the data; difficult
objects become ignore boxes (``iscrowd`` 1), as VOC's own evaluation counts them neither as hits nor
as misses; malformed files are errors that name file and line.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from sparsenet.data.loaded_dataset import (
    LoadedDataset,
    clip_box,
    make_annotation,
    read_class_names,
    read_image_size,
    read_text,
    require_no_problems,
)
from sparsenet.data.photo import PHOTO_SUFFIXES
from sparsenet.errors import AnnotationError, DatasetNotFoundError

VOC_TREE = """\
VOC2007/
  Annotations/000005.xml ...        (or annotations/, or the xml files directly in the folder)
  JPEGImages/000005.jpg ...         (or images/, or beside the xml files)
  ImageSets/Main/trainval.txt ...   (or trainval.txt in the folder); only if a split is named
  classes.txt                       optional: the class names in order; otherwise those of all
                                    xml files, by the alphabet
"""
_XML_FOLDERS = ("Annotations", "annotations", "labels", ".")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", ".")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LINE = "line"  # attribute that the parser notes an element's line in


def read_voc(
    folder: str | Path, split: str = "", *, class_names: Sequence[str] = ()
) -> LoadedDataset:
    """Reads and checks a folder of VOC annotations.

    Args:
        folder: See ``VOC_TREE``.
        split: Name of an image list; "" takes every xml file.
        class_names: In order; empty takes ``classes.txt`` or the names in all xml files, so that
            the splits of a folder agree.

    Returns:
        Dataset dicts with boxes (XYXY, absolute, clipped to the image); image ids count from 1.

    Raises:
        DatasetNotFoundError: If the folder, its xml files or the list are missing.
        AnnotationError: If a file is malformed, its image is missing, or a class is unknown. The
            message names files and lines.
    """
    root = Path(folder)
    xml_folder = _xml_folder(root)
    problems: list[str] = []
    every = sorted(xml_folder.glob("*.xml"))
    names = tuple(class_names) or read_class_names(root, xml_folder)
    chosen = _listed(root, xml_folder, split) if split else every
    trees = {path: _parse(path) for path in (chosen if names else {*every, *chosen})}
    names = names or _names_of(trees.values())
    dicts = []
    for number, path in enumerate(chosen, start=1):
        item = _read_image(path, trees[path], root, names, problems)
        dicts.append({**item, "image_id": number})
    require_no_problems(root, problems)
    return LoadedDataset(dicts, names, {i: i for i in range(len(names))})


def _xml_folder(root: Path) -> Path:
    found = next((root / f for f in _XML_FOLDERS if any((root / f).glob("*.xml"))), None)
    if found is not None:
        return found
    inside = sorted(path.parent.name for path in root.glob("*/Annotations"))
    hint = f" It holds {', '.join(inside)}: name one of these." if inside else ""
    raise DatasetNotFoundError(
        f"{root} must hold VOC's xml files, none was found.{hint} The folder must look like "
        f"this:\n{VOC_TREE}"
    )


def _listed(root: Path, xml_folder: Path, split: str) -> list[Path]:
    """The xml files of an image list."""
    folder = root / "ImageSets" / "Main"
    folder = folder if folder.is_dir() else root
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise DatasetNotFoundError(
            f"The split {split!r} must be a list {path}, there are: {known}. Name one of them, or "
            '"" for every xml file.'
        )
    # Lists of one class have a second column that tells whether the class is in the image.
    stems = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    paths = [xml_folder / f"{stem}.xml" for stem in stems]
    require_no_problems(
        path,
        [f"{p.name} is not in {xml_folder}" for p in paths if not p.is_file()]
        + ([] if paths else ["it lists no image"]),
    )
    return paths


def _parse(path: Path) -> ET.Element:
    """The root element; every element keeps its line in the attribute ``line``."""
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, _: builder.start(
        tag, {_LINE: str(parser.CurrentLineNumber)}
    )
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise AnnotationError(f"{path} must be an xml file: {error}. Write it again.") from error
    root = builder.close()
    if root.tag != "annotation":
        raise AnnotationError(
            f"{path}:{root.get(_LINE)}: the root of a VOC file must be <annotation>, got "
            f"<{root.tag}>."
        )
    return root


def _names_of(trees: Any) -> tuple[str, ...]:
    """The names of all objects, by the alphabet; that is VOC's own order of its 20 classes."""
    names = {_text(item, "name") for tree in trees for item in tree.findall("object")}
    return tuple(sorted(names - {""}))


def _read_image(
    path: Path, tree: ET.Element, root: Path, names: tuple[str, ...], problems: list[str]
) -> dict[str, Any]:
    """The dict of one image; mistakes go to ``problems``."""
    image = _find_image(path, _text(tree, "filename"), root)
    if image is None:
        problems.append(
            f"{path}: its image {_text(tree, 'filename') or path.stem} is in none of the folders "
            f"{', '.join(_IMAGE_FOLDERS)} of {root}"
        )
        return {}
    size = read_image_size(image)
    annotations = []
    for item in tree.findall("object"):
        annotation = _read_object(item, size, names)
        if isinstance(annotation, str):
            problems.append(f"{path}:{item.get(_LINE)}: {annotation}")
        else:
            annotations.append(annotation)
    stated = [_text(tree, f"size/{side}") for side in ("height", "width")]
    # Some tools write 0; a size that is stated and wrong would mean boxes of another image.
    if all(stated) and stated != ["0", "0"] and stated != [str(side) for side in size]:
        problems.append(
            f"{path}: <size> says {stated[1]} × {stated[0]}, the image has {size[1]} × {size[0]} "
            "pixels"
        )
    return {
        "file_name": str(image), "height": size[0], "width": size[1], "annotations": annotations,
    }  # fmt: skip


def _find_image(path: Path, filename: str, root: Path) -> Path | None:
    """The image of an xml file: by the name it states, or, as tools rename files, by its own."""
    names = [filename] if filename else []
    names += [path.stem + end for suffix in PHOTO_SUFFIXES for end in (suffix, suffix.upper())]
    folders = [root / folder for folder in _IMAGE_FOLDERS] + [path.parent]
    candidates = (folder / Path(name).name for name in names for folder in folders)
    return next((image for image in candidates if image.is_file()), None)


def _read_object(
    item: ET.Element, image_size: tuple[int, int], names: tuple[str, ...]
) -> dict[str, Any] | str:
    """The annotation of an <object>, or what is wrong with it."""
    name = _text(item, "name")
    if name not in names:
        return f"the class {name!r} must be one of {', '.join(names) or 'no names at all'}"
    texts = [_text(item, f"bndbox/{corner}") for corner in _CORNERS]
    try:
        x, y, x2, y2 = (float(text) for text in texts)
    except ValueError:
        return f"<bndbox> must have the numbers {', '.join(_CORNERS)}, got {texts}"
    if not all(map(math.isfinite, (x, y, x2, y2))) or x2 < x or y2 < y:
        return f"<bndbox> must have xmin <= xmax and ymin <= ymax, got {texts}"
    box = clip_box((x - 1, y - 1, x2, y2), image_size)
    if box is None:
        return f"<bndbox> {texts} is outside its image of {image_size[1]} × {image_size[0]} pixels"
    is_difficult = _text(item, "difficult") not in ("", "0")
    return make_annotation(box, names.index(name), is_ignore=is_difficult)


def _text(element: ET.Element, path: str) -> str:
    """The text of the first element at a path, without blanks around it; "" where there is none."""
    return (element.findtext(path) or "").strip()
