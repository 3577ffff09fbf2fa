from pathlib import Path

import pytest
from small_photos import write_photos
from torch.utils.data import TensorDataset
from torchvision.transforms import functional as F

from sparsenet.data.image_folder import build_eval_loader, build_train_loader, open_image_folder
from sparsenet.errors import DatasetError, DatasetNotFoundError, ImageReadError


def _numbers(count: int) -> TensorDataset:
    import torch

    return TensorDataset(torch.arange(count), torch.zeros(count))


def _order(loader, epoch: int) -> list[int]:
    loader.sampler.set_epoch(epoch)
    return [int(i) for batch, _ in loader for i in batch]


def test_classes_are_folders_in_alphabetical_order(tmp_path: Path):
    write_photos(tmp_path, 2)
    (tmp_path / "red" / "._3.png").write_bytes(b"")
    (tmp_path / "red" / "list.txt").write_text("no photo")
    dataset = open_image_folder(tmp_path, F.to_tensor)
    assert dataset.classes == ["blue", "green", "red"] and len(dataset) == 6
    image, number = dataset[5]
    assert number == 2 and image.shape == (3, 36, 40) and image.mean((1, 2)).argmax() == 0


def test_wrong_folders_are_named(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match="one folder of photos per class"):
        open_image_folder(tmp_path / "nowhere", F.to_tensor)
    write_photos(tmp_path, 1)
    with pytest.raises(DatasetError, match=r"the 2 classes .* it has 3; .*: blue, green, grey"):
        open_image_folder(tmp_path, F.to_tensor, class_names=["grey", "red"])
    (tmp_path / "blue" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ImageReadError, match=r"blue/0\.png"):
        open_image_folder(tmp_path, F.to_tensor)[0]


def test_training_order_follows_from_seed_and_epoch():
    loaders = [build_train_loader(_numbers(21), 4, seed=seed) for seed in (1, 1, 2)]
    first, same, other = (_order(loader, 3) for loader in loaders)
    assert first == same != other and first != _order(loaders[0], 4)
    assert len(first) == len(set(first)) == 20  # whole batches


@pytest.mark.parametrize(
    "count, batch_size, expected", [(7, 32, [6]), (9, 3, [2] * 4), (2, 8, [2])]
)
def test_small_sets_make_a_smaller_even_batch(count, batch_size, expected):
    loader = build_train_loader(_numbers(count), batch_size)
    assert [len(batch) for batch, _ in loader] == expected == [loader.batch_size] * len(expected)


def test_too_few_photos_are_told():
    with pytest.raises(DatasetError, match=r"1 photo\(s\) in 1 process\(es\)"):
        build_train_loader(_numbers(1), 8)
    with pytest.raises(DatasetError, match="got a batch size of 1 per process"):
        build_train_loader(_numbers(9), 1)


def test_repeated_augmentation_shows_photos_three_times_and_others_later():
    loader = build_train_loader(_numbers(30), 6, repeats=3)
    epochs = [_order(loader, epoch) for epoch in range(2)]
    for order in epochs:
        assert len(order) == 30 and all(order.count(i) == 3 for i in order)
    assert set(epochs[0]) != set(epochs[1])


def test_evaluation_shows_every_photo_once():
    batches = [batch.tolist() for batch, _ in build_eval_loader(_numbers(7), 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
