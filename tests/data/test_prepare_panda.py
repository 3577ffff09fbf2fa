"""datasets/prepare_panda.py on a generated PANDA folder."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips

from sparsenet.data.coco_json import load_coco_json
from sparsenet.data.panda import PANDA_TREE, load_panda_annotations
from sparsenet.data.panda_prepare import prepare_panda, pyramid_path, write_pyramids
from sparsenet.errors import AnnotationError, DatasetNotFoundError, ImageReadError, OutputError

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))
import prepare_panda as command

SIZE = (400, 700)
SCENES = ("01_A", "04_B", "07_C", "12_D")


def rect(x1, y1, x2, y2):
    return {"tl": {"x": x1, "y": y1}, "br": {"x": x2, "y": y2}}


@pytest.fixture
def root(tmp_path):
    people, cars = {}, {}
    for number, scene in enumerate(SCENES, start=1):
        name = f"{scene}/IMG_{scene[:2]}_01.jpg"
        target = tmp_path / "image_train" / name
        target.parent.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        pyvips.Image.new_from_array(pixels).jpegsave(str(target), Q=95)
        size = {"height": SIZE[0], "width": SIZE[1]}
        full = rect(0.1, 0.1, 0.2, 0.5)
        rects = {"full body": full, "visible body": full, "head": rect(0.1, 0.1, 0.12, 0.15)}
        objects = [{"category": "person", "rects": rects}]
        people[name] = {"image id": number, "image size": size, "objects list": objects}
        car = {"category": "large car", "rect": rect(0.5, 0.5, 0.7, 0.8)}
        cars[name] = {"image id": number, "image size": size, "objects list": [car]}
    folder = tmp_path / "image_annos"
    folder.mkdir()
    (folder / "person_bbox_train.json").write_text(json.dumps(people))
    (folder / "vehicle_bbox_train.json").write_text(json.dumps(cars))
    return tmp_path


def test_command_writes_six_datasets_split_by_scene(root, capsys):
    assert command.main([str(root), "--quiet"]) == 0
    assert "panda_all_val.json: 6 boxes" in capsys.readouterr().out
    files = sorted(p.name for p in (root / "annotations").iterdir())
    assert files == sorted(
        f"panda_{s}_{p}.json" for s in ("person", "vehicle", "all") for p in ("train", "val")
    )
    train = json.loads((root / "annotations" / "panda_person_train.json").read_text())
    val = json.loads((root / "annotations" / "panda_person_val.json").read_text())
    assert [i["file_name"] for i in train["images"]] == ["01_A/IMG_01_01.jpg"]
    assert [i["file_name"][:2] for i in val["images"]] == ["04", "07", "12"]
    assert not (root / "image_train" / "pyramids").exists(), "only on request"


def test_written_files_load_as_a_dataset(root):
    prepare_panda(root, val_scenes=["01_A"], quiet=True)
    path = root / "annotations" / "panda_all_train.json"
    dicts = load_coco_json(path, root / "image_train")
    assert len(dicts) == 3
    assert {a["category_id"] for d in dicts for a in d["annotations"]} == {0, 1}


def test_head_boxes_and_all_scenes_for_testing(root):
    written = prepare_panda(root, person_box="head", val_scenes=["all"], quiet=True)
    assert written["panda_person_train"] == 0 and written["panda_person_val"] == 4
    val = json.loads((root / "annotations" / "panda_person_val.json").read_text())
    assert val["annotations"][0]["bbox"] == pytest.approx([70, 40, 14, 20])
    assert val["info"]["description"] == "PANDA, head"


def test_pyramids_are_tiled_and_kept(root):
    prepare_panda(root, pyramids=True, quiet=True)
    image = load_panda_annotations(root)[0]
    path = pyramid_path(root, image)
    assert path == root / "image_train" / "pyramids" / "01_A" / "IMG_01_01.tif"
    pyramid = pyvips.Image.new_from_file(str(path))
    assert (pyramid.height, pyramid.width) == SIZE and pyramid.get("n-pages") == 3
    jpeg = pyvips.Image.new_from_file(str(root / "image_train" / image.file_name))
    assert np.abs(pyramid.numpy().astype(int) - jpeg.numpy()).mean() < 25
    before = path.stat().st_mtime_ns
    write_pyramids(root, [image], quiet=True)
    assert path.stat().st_mtime_ns == before, "existing pyramids are not written again"
    assert not list(path.parent.glob(".*")), "no temporary files"


def test_only_the_labelled_kind_is_written(root):
    (root / "image_annos" / "vehicle_bbox_train.json").unlink()
    written = prepare_panda(root, quiet=True)
    assert set(written) == {"panda_person_train", "panda_person_val"}


def test_missing_images_show_the_tree(root, capsys):
    (root / "image_train" / "07_C" / "IMG_07_01.jpg").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"1 are missing: 07_C/IMG_07_01.jpg") as caught:
        prepare_panda(root, quiet=True)
    assert PANDA_TREE in str(caught.value)
    assert not (root / "annotations").exists(), "nothing is written"
    assert command.main([str(root / "nowhere")]) == 2
    assert "image_annos/" in capsys.readouterr().err


def test_bad_images_are_named(root):
    source = root / "image_train" / "04_B" / "IMG_04_01.jpg"
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageReadError, match=r"IMG_04_01\.jpg must be a whole image"):
        prepare_panda(root, pyramids=True, quiet=True)
    assert not list((root / "image_train" / "pyramids" / "04_B").glob("*")), "no half file"
    pyvips.Image.black(50, 60).jpegsave(str(source))
    with pytest.raises(AnnotationError, match=r"must be \(400, 700\).*but is \(60, 50\)"):
        prepare_panda(root, pyramids=True, quiet=True)


def test_unwritable_folder(root):
    (root / "annotations").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="must be a folder that can be written"):
        prepare_panda(root, quiet=True)
