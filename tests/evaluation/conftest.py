import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from evaluation.panda_cases import write_dataset

from sparsenet.data import register_coco_files


@pytest.fixture
def register(tmp_path):
    """Writes and registers a dataset; forgets it afterwards."""
    name = f"panda_evaluator_{tmp_path.name}"

    def do(truths, **options):
        write_dataset(tmp_path / "boxes.json", truths, **options)
        register_coco_files([[name, str(tmp_path / "boxes.json"), ""]], evaluator_type="panda")
        return name

    yield do
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
