"""Stands in for detectron2.data.datasets.builtin_meta: has names and ids of the 80 COCO classes;
lacks their colours, the stuff classes and all other datasets."""

from typing import Any

from detectron2._lacking import lacks

# A blank inside a name is written "_".
_COCO_NAMES = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove
skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple
sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed
dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink
refrigerator book clock vase scissors teddy_bear hair_drier toothbrush
"""
_COCO_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # in 1..90, but never annotated


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    """Returns the metadata of "coco", the only one here."""
    if dataset_name != "coco":
        raise lacks(f"The builtin metadata of {dataset_name!r}")
    ids = [i for i in range(1, 91) if i not in _COCO_UNUSED_IDS]
    return {
        "thing_dataset_id_to_contiguous_id": {id_: index for index, id_ in enumerate(ids)},
        "thing_classes": [name.replace("_", " ") for name in _COCO_NAMES.split()],
    }
