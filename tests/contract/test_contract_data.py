"""detectron2.data, real or lite: the recorded numbers, and behaviour that both share."""

import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from contract.active import lite_only
from contract.data_cases import assert_same, jsonable, make_json, registered
from contract.record_data_engine import DATA_CASES, RECORD, signatures
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    Metadata,
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    detection_utils,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import convert_to_coco_json, load_coco_json
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.structures import BoxMode

RECORDED = json.loads(RECORD.read_text())


@pytest.mark.parametrize("case", DATA_CASES, ids=lambda case: case.__name__)
def test_data_does_what_was_recorded_with_the_real_one(case):
    assert_same(jsonable(case()), RECORDED[case.__name__])


def test_public_names_take_the_arguments_of_the_real_ones():
    recorded = RECORDED["signatures"]
    different = []
    for module, names in jsonable(signatures()).items():
        for name, described in names.items():
            expected = recorded[module].get(name, "no such name")
            if isinstance(described, dict) and isinstance(expected, dict):
                parts = [(f"{name}.{k}", v, expected.get(k)) for k, v in described.items()]
            else:
                parts = [(name, described, expected)]
            different += [f"{module}:{n}: {a} is not {e}" for n, a, e in parts if a != e]
    assert not different, "\n".join(different)


# ---- catalogs ---------------------------------------------------------------------------------


@pytest.fixture
def dataset():
    """Registers dicts under "contract_dicts" and forgets them afterwards."""
    name = "contract_dicts"

    def register(dicts, **metadata):
        DatasetCatalog.register(name, lambda: dicts)
        MetadataCatalog.get(name).set(**metadata)
        return name

    yield register
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)


def box(category=0, **more):
    return {
        "bbox": [1, 2, 30, 40],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        **more,
    }


def record(image_id, *annotations, height=8, width=8):
    size = {"height": height, "width": width}
    return {"file_name": "x.png", "image_id": image_id, **size, "annotations": list(annotations)}


def test_dataset_names_are_unique_and_known(dataset):
    name = dataset([record(1)])
    with pytest.raises(AssertionError, match="already"):
        DatasetCatalog.register(name, list)
    assert name in DatasetCatalog and name in DatasetCatalog.list()
    with pytest.raises(KeyError, match="no_such_dataset"):
        DatasetCatalog.get("no_such_dataset")
    with pytest.raises(AssertionError):
        DatasetCatalog.register("contract_other", "not a function")


def test_dataset_function_runs_at_each_get():
    calls = []
    DatasetCatalog.register("contract_dicts", lambda: calls.append(1) or [])
    try:
        DatasetCatalog.get("contract_dicts")
        DatasetCatalog.get("contract_dicts")
    finally:
        DatasetCatalog.remove("contract_dicts")
    assert len(calls) == 2


def test_metadata_is_one_object_whose_values_do_not_change(dataset):
    meta = MetadataCatalog.get(dataset([record(1)], colour="red"))
    assert meta is MetadataCatalog.get("contract_dicts") and isinstance(meta, Metadata)
    assert meta.set(colour="red", size=3) is meta
    assert (meta.get("colour"), meta.get("nothing", 5)) == ("red", 5)
    assert meta.as_dict() == {"name": "contract_dicts", "colour": "red", "size": 3}
    with pytest.raises(AssertionError, match="red"):
        meta.colour = "blue"
    with pytest.raises(AttributeError, match="nothing"):
        _ = meta.nothing


# ---- datasets and loaders ---------------------------------------------------------------------


def test_dataset_dicts_are_joined_filtered_and_checked(dataset):
    dicts = [record(1, box()), record(2, box(iscrowd=1)), record(3)]
    name = dataset(dicts, thing_classes=["a", "b"])
    assert [d["image_id"] for d in get_detection_dataset_dicts(name)] == [1]
    kept = get_detection_dataset_dicts([name, name], filter_empty=False)
    assert [d["image_id"] for d in kept] == [1, 2, 3, 1, 2, 3]
    DatasetCatalog.register("contract_other", lambda: dicts)
    MetadataCatalog.get("contract_other").thing_classes = ["b", "a"]
    try:
        with pytest.raises(ValueError, match="thing_classes"):
            get_detection_dataset_dicts([name, "contract_other"])
        get_detection_dataset_dicts([name, "contract_other"], check_consistency=False)
    finally:
        DatasetCatalog.remove("contract_other")
        MetadataCatalog.remove("contract_other")


def test_dataset_dicts_must_not_be_empty(dataset):
    name = dataset([])
    with pytest.raises(AssertionError, match=name):
        get_detection_dataset_dicts(name)
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])


def test_histogram_refuses_a_class_outside_the_names():
    print_instances_class_histogram([record(1, box(1))], ["a", "b"])
    with pytest.raises(AssertionError, match="category_id"):
        print_instances_class_histogram([record(1, box(2))], ["a", "b"])


def test_batch_size_must_fit():
    items, sampler = list(range(6)), TrainingSampler(6)
    with pytest.raises(AssertionError, match="0"):
        build_batch_data_loader(items, sampler, 0)
    with pytest.raises(ValueError, match="single_gpu_batch_size"):
        build_batch_data_loader(items, sampler, 2, single_gpu_batch_size=2)
    with pytest.raises(AssertionError, match=r"incomplete|not full"):
        build_batch_data_loader(items, sampler, 2, aspect_ratio_grouping=True, drop_last=False)
    loader = build_batch_data_loader(items, sampler, 0, single_gpu_batch_size=3, collate_fn=sum)
    assert next(iter(loader)) <= 12


def test_sampler_arguments_are_checked():
    with pytest.raises(TypeError, match="int"):
        TrainingSampler(3.0)
    with pytest.raises(ValueError, match="0"):
        TrainingSampler(0)
    with pytest.raises(AssertionError):
        InferenceSampler(0)


def test_unknown_training_sampler_is_refused():
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_detection_train_loader(cfg, mapper=dict, dataset=[record(1)])


def test_iterable_dataset_is_mapped_and_filtered_and_takes_no_sampler():
    class Numbers(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(6))

    mapped = MapDataset(Numbers(), lambda x: None if x % 3 == 0 else 10 * x)
    assert list(mapped) == [10, 20, 40, 50]
    loader = build_detection_train_loader(
        Numbers(), mapper=None, total_batch_size=2, aspect_ratio_grouping=False
    )
    assert list(loader) == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(AssertionError):
        build_detection_test_loader(Numbers(), mapper=None, sampler=InferenceSampler(6))


def test_map_dataset_survives_pickling_with_a_lambda():
    dataset = MapDataset(DatasetFromList([1, 2, 3]), lambda x: x + 1)
    assert [pickle.loads(pickle.dumps(dataset))[i] for i in range(3)] == [2, 3, 4]


@pytest.mark.parametrize("serialize", [True, False])
def test_list_dataset_hands_out_copies(serialize):
    source = [{"a": [1]}, {"a": [2]}]
    dataset = DatasetFromList(source, copy=True, serialize=serialize)
    dataset[1]["a"].append(9)
    assert dataset[1] == {"a": [2]} and len(dataset) == 2
    with pytest.raises(TypeError, match="7"):
        DatasetFromList(source, serialize=7)


def test_workers_draw_different_random_numbers():
    loader = build_batch_data_loader(
        MapDataset(DatasetFromList([0] * 8), lambda _: float(np.random.rand())),
        TrainingSampler(8, seed=0),
        2,
        num_workers=2,
        seed=5,
    )
    values = list(itertools.chain(*itertools.islice(iter(loader), 4)))
    assert len(set(values)) == len(values)


# ---- COCO json --------------------------------------------------------------------------------


def edited_json(folder, edit):
    path = make_json(folder)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("edit", "error", "match"),
    [
        (lambda c: c["annotations"][0].update(bbox=[]), ValueError, "bbox"),
        (lambda c: c["annotations"][0].update(ignore=1), AssertionError, "ignore"),
        (lambda c: c["annotations"][0].update(category_id=99), KeyError, "99"),
        (lambda c: c["annotations"].append(dict(c["annotations"][0])), AssertionError, "unique"),
    ],
)
def test_wrong_json_is_refused(tmp_path, edit, error, match):
    path = edited_json(tmp_path, edit)
    with pytest.raises(error, match=match):
        load_coco_json(path, "", "contract_wrong")
    MetadataCatalog.remove("contract_wrong")


def test_converted_json_reads_back_as_the_same_boxes(tmp_path):
    with registered():
        before = DatasetCatalog.get("contract_tiny")
        path = str(tmp_path / "sub" / "converted.json")
        convert_to_coco_json("contract_tiny", path)
        after = load_coco_json(path, "", "contract_back")
        MetadataCatalog.remove("contract_back")
    for old, new in zip(before, after):
        assert [a["bbox"] for a in old["annotations"]] == [a["bbox"] for a in new["annotations"]]
        assert [a["category_id"] for a in old["annotations"]] == [
            a["category_id"] for a in new["annotations"]
        ]


# ---- lite's own promises ----------------------------------------------------------------------


@lite_only
def test_lite_does_not_reuse_a_stale_json(dataset, tmp_path):
    dicts = [record(1, box())]
    name, path = dataset(dicts, thing_classes=["a"]), tmp_path / "converted.json"
    convert_to_coco_json(name, str(path))
    first = path.read_text()
    convert_to_coco_json(name, str(path))
    assert path.read_text() == first
    dicts.append(record(2, box()))
    convert_to_coco_json(name, str(path))
    assert len(json.loads(path.read_text())["images"]) == 2


@lite_only
def test_lite_without_a_seed_shuffles_differently_in_each_run():
    def order(np_seed):
        np.random.seed(np_seed)
        cfg = get_cfg()
        cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 0, False
        cfg.SOLVER.IMS_PER_BATCH = 10
        loader = build_detection_train_loader(cfg, mapper=int, dataset=list(range(50)))
        return next(iter(loader))

    assert order(1) != order(2) and order(1) == order(1)


@lite_only
def test_lite_refuses_what_it_lacks(dataset, tmp_path):
    cfg = get_cfg()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(NotImplementedError, match=r"[Kk]eypoint.*pip install"):
        DatasetMapper(cfg, True)
    with pytest.raises(NotImplementedError, match="keypoint"):
        get_detection_dataset_dicts("contract_dicts", min_keypoints=1)
    with pytest.raises(NotImplementedError, match="gt_keypoints"):
        detection_utils.annotations_to_instances([box(keypoints=[0] * 3)], (9, 9))
    for sampler in ("RandomSubsetTrainingSampler", "WeightedTrainingSampler"):
        cfg = get_cfg()
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        with pytest.raises(NotImplementedError, match=sampler):
            build_detection_train_loader(cfg, mapper=dict, dataset=[record(1)])
    with pytest.raises(NotImplementedError, match="RandomLighting"):
        _ = T.RandomLighting
    with pytest.raises(NotImplementedError, match="register_coco_panoptic"):
        from detectron2.data.datasets import register_coco_panoptic  # noqa: F401
