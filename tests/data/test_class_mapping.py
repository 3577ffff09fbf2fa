"""class_mapping.csv there and back, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsenet.data.class_mapping import read_class_mapping, write_class_mapping
from sparsenet.errors import DatasetError, DatasetNotFoundError

# Folder names: no surrogates, no path separator, no NUL.
NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\\\0\r\n"), min_size=1
)


@given(names=st.lists(NAMES, min_size=1, max_size=8))
def test_round_trip(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("csv") / "class_mapping.csv"
    write_class_mapping(path, names)
    assert read_class_mapping(path) == tuple(names)


def test_what_a_spreadsheet_writes(tmp_path):
    path = tmp_path / "m.csv"
    text = "\ufeffclass_id,class_name,note\r\n1,Monet,\r\n0,'Hokusai, Katsushika',\r\n"
    path.write_bytes(text.replace("'", '"').encode())
    assert read_class_mapping(path) == ("Hokusai, Katsushika", "Monet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns class_id, class_name, it has none"),
        ("id,name\n0,a\n", "it has id, name"),
        ("class_id,class_name\n", "must number its 0 classes"),
        ("class_id,class_name\n0,a\n2,b\n", "must number its 2 classes 0 to 1"),
        ("class_id,class_name\n0,a\n0,b\n", "each once"),
        ("class_id,class_name\n0,a\nb,1\n", "line 3: class_id must be an integer, got 'b'"),
        ("class_id,class_name\n0\n", "line 2: class_name is missing"),
    ],
)
def test_other_content_is_refused(tmp_path, text, message):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_class_mapping(path)


def test_missing_or_not_text(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="Training writes"):
        read_class_mapping(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_bytes(b"class_id,class_name\n0,\xff\xfe\n")
    with pytest.raises(DatasetError, match="must be a CSV file in UTF-8"):
        read_class_mapping(tmp_path / "m.csv")
