"""Stands in for detectron2.data.datasets.coco: has load_coco_json, load_sem_seg,
register_coco_instances and convert_to_coco_json; lacks rotated boxes and the conversion of
keypoints."""

import contextlib
import datetime
import io
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2._lacking import lacks, package_getattr
from detectron2.structures import Boxes, BoxMode
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "convert_to_coco_dict",
    "convert_to_coco_json",
    "load_coco_json",
    "load_sem_seg",
    "register_coco_instances",
]

logger = logging.getLogger(__name__)

__getattr__ = package_getattr(__name__)


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict]:
    """Reads a COCO instance json into dataset dicts, in the order of the image ids.

    Args:
        json_file: path of the json.
        image_root: folder that the json's file names are relative to.
        dataset_name: put class names and id mapping into its metadata and map the sorted category
            ids to 0, 1, …; None keeps the ids of the file.
        extra_annotation_keys: further keys to copy from each annotation.
    """
    json_file = PathManager.get_local_path(json_file)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(json_file)
    class_of_id = None if dataset_name is None else _put_classes(coco, dataset_name)
    image_ids = sorted(coco.imgs)
    annos_per_image = [coco.imgToAnns[i] for i in image_ids]
    _check_annotations(coco, annos_per_image, json_file)
    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or [])]
    dataset_dicts, num_invalid = [], 0
    for image, annos in zip(coco.loadImgs(image_ids), annos_per_image):
        records = [_read_annotation(anno, image["id"], keys, class_of_id) for anno in annos]
        num_invalid += records.count(None)
        dataset_dicts.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [r for r in records if r is not None],
            }
        )
    if num_invalid:
        logger.warning(f"{json_file}: dropped {num_invalid} annotations without a valid polygon")
    logger.info(f"Loaded {len(dataset_dicts)} images in COCO format from {json_file}")
    return dataset_dicts


def _put_classes(coco: COCO, dataset_name: str) -> dict[int, int]:
    """Fills the metadata with the class names and returns category id -> class."""
    ids = sorted(coco.getCatIds())
    meta = MetadataCatalog.get(dataset_name)
    meta.thing_classes = [coco.cats[i]["name"] for i in ids]
    meta.thing_dataset_id_to_contiguous_id = {id_: index for index, id_ in enumerate(ids)}
    if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning(
            f"{dataset_name}: category ids are {ids}; they are mapped to 0…{len(ids) - 1}"
        )
    return meta.thing_dataset_id_to_contiguous_id


def _check_annotations(coco: COCO, annos_per_image: list[list[dict]], json_file: str) -> None:
    ids = [anno["id"] for annos in annos_per_image for anno in annos]
    if len(ids) < len(coco.anns):
        logger.warning(
            f"{json_file}: {len(coco.anns) - len(ids)} annotations belong to no image of it"
        )
    # COCO 2014's minival files are published with a few repeated ids.
    assert len(set(ids)) == len(ids) or "minival" in json_file, (
        f"Annotation ids in {json_file} must be unique, {len(ids) - len(set(ids))} are repeated"
    )


def _read_annotation(
    anno: dict, image_id: int, keys: Sequence[str], class_of_id: dict[int, int] | None
) -> dict | None:
    """Returns the annotation of a dataset dict, or None if it has polygons but no valid one."""
    assert anno["image_id"] == image_id, (
        f"annotation {anno['id']} is listed for image {image_id} but names image {anno['image_id']}"
    )
    assert anno.get("ignore", 0) == 0, (
        f'annotation {anno["id"]} has "ignore", which is not supported; use "iscrowd"'
    )
    record = {key: anno[key] for key in keys if key in anno}
    if "bbox" in record and len(record["bbox"]) == 0:
        raise ValueError(
            f"Annotation {anno['id']} of image {image_id} must have a bbox of four numbers, not []"
        )
    if anno.get("segmentation"):
        record["segmentation"] = _read_segmentation(anno["segmentation"])
        if not record["segmentation"]:
            return None
    if anno.get("keypoints"):  # pixel indices in the file, continuous coordinates here
        record["keypoints"] = [
            v if i % 3 == 2 else v + 0.5 for i, v in enumerate(anno["keypoints"])
        ]
    record["bbox_mode"] = BoxMode.XYWH_ABS
    if class_of_id:
        if record["category_id"] not in class_of_id:
            raise KeyError(
                f"Annotation {anno['id']} has category_id {record['category_id']}, but the json's "
                f"categories are {list(class_of_id)}"
            )
        record["category_id"] = class_of_id[record["category_id"]]
    return record


def _read_segmentation(segmentation: Any) -> Any:
    """Returns the polygons of three points or more, or the RLE in its compressed form."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]


def load_sem_seg(
    gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg"
) -> list[dict]:
    """Pairs images with label maps of the same relative path into dataset dicts, in path order.

    Args:
        gt_root: folder of the label maps, in which a pixel's value is its class.
        image_root: folder of the images.
        gt_ext, image_ext: endings of their names.

    Returns:
        dicts with "file_name" and "sem_seg_file_name"; an image or a label map without its partner
        is left out with a warning.
    """
    images, labels = _files_by_stem(image_root, image_ext), _files_by_stem(gt_root, gt_ext)
    assert labels, f"no label map (*.{gt_ext}) was found in {gt_root}"
    assert images, f"no image (*.{image_ext}) was found in {image_root}"
    alone = images.keys() ^ labels.keys()
    if alone:
        logger.warning(
            f"{len(alone)} of {image_root} and {gt_root} have no partner and are left out, such as "
            f"{min(alone)}"
        )
    both = sorted(images.keys() & labels.keys())
    logger.info(f"Loaded {len(both)} images with semantic labels from {image_root}")
    return [{"file_name": images[stem], "sem_seg_file_name": labels[stem]} for stem in both]


def _files_by_stem(root: str, extension: str) -> dict[str, str]:
    """The files directly in ``root`` with this ending: name without the ending -> path."""
    suffix = f".{extension}"
    names = [name for name in PathManager.ls(root) if name.endswith(suffix)]
    return {name.removesuffix(suffix): os.path.join(root, name) for name in names}


def _polygon_area(polygon: Sequence[float]) -> float:
    x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def _annotation_to_coco(annotation: dict) -> dict[str, Any]:
    """Returns bbox, area, iscrowd and segmentation of an annotation as COCO writes them."""
    if len(annotation["bbox"]) != 4 or "keypoints" in annotation:
        raise lacks("Converting rotated boxes or keypoints to COCO json")
    box = np.asarray(annotation["bbox"], dtype=np.float64).tolist()
    box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        area = Boxes([BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)]).area()[0].item()
    elif isinstance(segmentation, list):
        area = float(np.float32(sum(map(_polygon_area, segmentation))))
    else:
        area = mask_util.area(segmentation).item()
        if isinstance(segmentation["counts"], bytes):
            segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    converted = {
        "bbox": [round(float(x), 3) for x in box],
        "area": float(area),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    return converted if segmentation is None else {**converted, "segmentation": segmentation}


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """Returns a registered dataset, whose metadata has "thing_classes", in COCO's json structure.

    Annotation ids count from 1. Without any annotation there is no "annotations" key.
    """
    metadata = MetadataCatalog.get(dataset_name)
    class_of_id = metadata.get("thing_dataset_id_to_contiguous_id", {})
    id_of_class = {class_: id_ for id_, class_ in class_of_id.items()}
    images, annotations = [], []
    for index, record in enumerate(DatasetCatalog.get(dataset_name)):
        image = {
            "id": record.get("image_id", index),
            "width": int(record["width"]),
            "height": int(record["height"]),
            "file_name": str(record["file_name"]),
        }
        images.append(image)
        for anno in record.get("annotations", []):
            class_ = anno["category_id"]
            ids = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": int(id_of_class[class_] if id_of_class else class_),
            }
            annotations.append({**ids, **_annotation_to_coco(anno)})
    coco_dict = {
        "info": {
            "date_created": str(datetime.datetime.now()),
            "description": f"Made from the registered dataset {dataset_name}.",
        },
        "images": images,
        "categories": [
            {"id": id_of_class[i] if id_of_class else i, "name": name}
            for i, name in enumerate(metadata.thing_classes)
        ],
        "licenses": None,
    }
    return {**coco_dict, "annotations": annotations} if annotations else coco_dict


def _is_current(path: str, coco_dict: dict[str, Any]) -> bool:
    """Whether the json at `path` describes the same dataset, whenever it was made."""
    with PathManager.open(path) as f:
        cached = json.load(f)
    fresh = json.loads(json.dumps(coco_dict))
    return all(cached.get(k) == fresh.get(k) for k in ("images", "categories", "annotations"))


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Writes a registered dataset as COCO json, atomically and under a file lock.

    A file of an earlier run is kept with `allow_cached` if it still describes the dataset;
    Detectron2 keeps it unseen, and so evaluates against stale annotations.
    """
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        coco_dict = convert_to_coco_dict(dataset_name)
        if allow_cached and PathManager.exists(output_file):
            if _is_current(output_file, coco_dict):
                logger.info(f"{output_file} already holds the annotations of {dataset_name}")
                return
            logger.warning(f"{output_file} is not what {dataset_name} is now; it is written anew")
        temporary = output_file + ".tmp"
        with PathManager.open(temporary, "w") as f:
            json.dump(coco_dict, f)
        os.replace(temporary, output_file)


def register_coco_instances(
    name: str, metadata: dict, json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Registers a COCO json under `name`; a name that is registered already keeps its function.

    Args:
        name: of the dataset.
        metadata: further metadata; may be empty.
        json_file: path of the json; it is read at the first use.
        image_root: folder of the images.
    """
    assert isinstance(name, str), f"name must be a string, got {name!r}"
    assert isinstance(json_file, str | os.PathLike), f"json_file must be a path, got {json_file!r}"
    assert isinstance(image_root, str | os.PathLike), (
        f"image_root must be a path, got {image_root!r}"
    )
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
