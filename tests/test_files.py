import json
import os

import pytest

from sparsenet.errors import OutputError
from sparsenet.files import make_folder, write_atomically, write_json, write_text


def test_writing_replaces_whole_files_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "a.json"
    write_text(target, "old")
    write_json(target, {"new": 1})
    assert json.loads(target.read_text()) == {"new": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_text(target, "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, float("nan"))
    assert target.read_text() == "old"
    target_folder = tmp_path / "folder"
    target_folder.mkdir()
    with pytest.raises(OutputError, match="must be written"):
        write_text(target_folder, "a file cannot replace a folder")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "folder"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"Results must go to a folder .*--output, OUTPUT_DIR"):
        make_folder(tmp_path / "file" / "results")


def test_a_writer_gets_a_path_of_the_same_suffix(tmp_path):
    suffixes = []

    def write(part):
        suffixes.append(part.suffix)
        part.write_bytes(b"half")
        raise RuntimeError("the disk is full")

    with pytest.raises(OutputError, match="the disk is full"):
        write_atomically(tmp_path / "scene.tif", write)
    assert suffixes == [".tif"] and not os.listdir(tmp_path)
