"""Stands in for detectron2.data.datasets.builtin_meta: has names and ids of the 80 COCO classes
and the names of ADE20K's 150; lacks their colours and all other datasets."""

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

# ADE20K's scene parsing benchmark (objectInfo150.txt), by the label map's value minus 1; the blank
# behind "window" is Detectron2's, and part of its metric's name.
ADE20K_SEM_SEG_CATEGORIES = (
    "wall;building;sky;floor;tree;ceiling;road, route;bed;window ;grass;cabinet;"
    "sidewalk, pavement;person;earth, ground;door;table;mountain, mount;plant;curtain;chair;"
    "car;water;painting, picture;sofa;shelf;house;sea;mirror;rug;field;armchair;seat;fence;"
    "desk;rock, stone;wardrobe, closet, press;lamp;tub;rail;cushion;base, pedestal, stand;"
    "box;column, pillar;signboard, sign;chest of drawers, chest, bureau, dresser;counter;"
    "sand;sink;skyscraper;fireplace;refrigerator, icebox;grandstand, covered stand;path;"
    "stairs;runway;case, display case, showcase, vitrine;"
    "pool table, billiard table, snooker table;pillow;screen door, screen;"
    "stairway, staircase;river;bridge, span;bookcase;blind, screen;coffee table;"
    "toilet, can, commode, crapper, pot, potty, stool, throne;flower;book;hill;bench;"
    "countertop;stove;palm, palm tree;kitchen island;computer;swivel chair;boat;bar;"
    "arcade machine;hovel, hut, hutch, shack, shanty;bus;towel;light;truck;tower;chandelier;"
    "awning, sunshade, sunblind;street lamp;booth;tv;plane;dirt track;clothes;pole;"
    "land, ground, soil;bannister, banister, balustrade, balusters, handrail;"
    "escalator, moving staircase, moving stairway;ottoman, pouf, pouffe, puff, hassock;"
    "bottle;buffet, counter, sideboard;poster, posting, placard, notice, bill, card;stage;"
    "van;ship;fountain;conveyer belt, conveyor belt, conveyer, conveyor, transporter;canopy;"
    "washer, automatic washer, washing machine;plaything, toy;pool;stool;barrel, cask;"
    "basket, handbasket;falls;tent;bag;minibike, motorbike;cradle;oven;ball;food, solid food;"
    "step, stair;tank, storage tank;trade name;microwave;pot;animal;bicycle;lake;dishwasher;"
    "screen;blanket, cover;sculpture;hood, exhaust hood;sconce;vase;traffic light;tray;"
    "trash can;fan;pier;crt screen;plate;monitor;bulletin board;shower;radiator;"
    "glass, drinking glass;clock;flag"
).split(";")


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    """Returns the metadata of "coco", the only one here."""
    if dataset_name != "coco":
        raise lacks(f"The builtin metadata of {dataset_name!r}")
    ids = [i for i in range(1, 91) if i not in _COCO_UNUSED_IDS]
    return {
        "thing_dataset_id_to_contiguous_id": {id_: index for index, id_ in enumerate(ids)},
        "thing_classes": [name.replace("_", " ") for name in _COCO_NAMES.split()],
    }
