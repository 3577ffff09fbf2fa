"""Files of the datasets that Detectron2 knows by name, asked for before a model is built."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from detectron2.data import MetadataCatalog

from sparsenet.errors import DatasetNotFoundError

_TREES = {
    "coco_2017": """coco/
  annotations/instances_{train,val}2017.json
  {train,val}2017/000000000009.jpg ...""",
    "ade20k_sem_seg": """ADEChallengeData2016/
  images/{training,validation}/ADE_train_00000001.jpg ...
  annotations_detectron2/{training,validation}/ADE_train_00000001.png ...
    (made of annotations/ by datasets/prepare_ade20k.py: 255 for 0, all others less 1)""",
}


def require_builtin_files(names: Iterable[str]) -> None:
    """Raises DatasetNotFoundError, with the expected tree, where COCO 2017 or ADE20K is missing."""
    for name in names:
        tree = next((tree for prefix, tree in _TREES.items() if name.startswith(prefix)), None)
        if tree is None:
            continue
        metadata = MetadataCatalog.get(name)
        for key in ("json_file", "image_root", "sem_seg_root"):
            path = metadata.get(key)
            if path is not None and not Path(path).exists():
                raise DatasetNotFoundError(
                    f"Dataset {name!r} needs {path}, which does not exist. Set "
                    "DETECTRON2_DATASETS to the folder that holds this tree (./datasets if it is "
                    f"not set):\n{tree}"
                )
