"""Stands in for detectron2.structures.instances: has Instances; lacks nothing."""

import itertools
import warnings
from typing import Any

import torch


class Instances:
    """The objects of one image: fields of equal length, read and set as attributes."""

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """Takes the image's (height, width) and fields by keyword."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frame that the boxes live in."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Sets a field; its length must be that of the others."""
        with warnings.catch_warnings(record=True):  # len() of a traced tensor warns
            length = len(value)
        assert not self._fields or len(self) == length, (
            f"Adding a field of length {length} to a Instances of length {len(self)}"
        )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Tells whether a field exists."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drops a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Returns a field; KeyError where it does not exist."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Returns the dict of all fields, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Returns a copy with ``to`` applied to every field that has it."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Instances":
        """Returns the instances at an int, slice, index or bool vector."""
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, None, len(self))  # a step of the whole length keeps one row
        selected = Instances(self._image_size)
        for name, value in self._fields.items():
            selected.set(name, value[item])
        return selected

    def __len__(self) -> int:
        for value in self._fields.values():
            return value.__len__()
        raise NotImplementedError("Empty Instances does not support __len__!")

    def __iter__(self):
        raise NotImplementedError("`Instances` object is not iterable!")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Returns all instances of one image in one object; a single one is returned as it is."""
        assert len(instance_lists) > 0, "cat needs at least one Instances."
        assert all(isinstance(item, Instances) for item in instance_lists), "cat takes Instances."
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if not isinstance(first.image_size, torch.Tensor):
            sizes = [item.image_size for item in instance_lists]
            assert all(size == sizes[0] for size in sizes), f"Image sizes differ: {sizes}."
        merged = Instances(first.image_size)
        for name in first._fields:
            merged.set(name, _cat_values([item.get(name) for item in instance_lists]))
        return merged

    def __str__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"{type(self).__name__}(num_instances={len(self)}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )

    __repr__ = __str__


def _cat_values(values: list[Any]) -> Any:
    kind = type(values[0])
    if issubclass(kind, torch.Tensor):
        return torch.cat(values)
    if issubclass(kind, list):
        return list(itertools.chain(*values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"Unsupported type {kind} for concatenation")
