"""Stands in for detectron2.data.catalog: has DatasetCatalog, MetadataCatalog and Metadata; lacks
the old names of metadata keys (class_names and the like)."""

import copy
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _Catalog(UserDict):
    """Named entries that live as long as the process."""

    def list(self) -> list[str]:
        """Returns the names in the order of registration."""
        return list(self.data)

    def remove(self, name: str) -> None:
        """Forgets `name`; a KeyError if it is unknown."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self.data)})"

    __str__ = __repr__


class _DatasetCatalog(_Catalog):
    """Dataset name -> function without arguments that returns the list of dataset dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Adds a dataset; `func` runs at each `get` and must return the same list each time."""
        assert callable(func), (
            f"register({name!r}) needs a function without arguments, got {func!r}"
        )
        assert name not in self, (
            f"Dataset {name!r} is registered already; use another name or remove() it first"
        )
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Returns the dataset dicts of `name`.

        Raises:
            KeyError: nothing is registered under `name`.
        """
        if name not in self:
            raise KeyError(
                f"Dataset {name!r} must be registered in the DatasetCatalog before it is used; "
                f"registered are: {', '.join(self.data)}"
            )
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Facts about one dataset (class names, paths); a value, once set, cannot change."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"Metadata of dataset {self.name!r} has {list(self.__dict__)}, but no attribute {key!r}"
        )

    def __setattr__(self, key: str, val: Any) -> None:
        if hasattr(self, key):
            known = getattr(self, key)
            assert known == val, (
                f"Metadata {key!r} of dataset {self.name!r} is {known!r} and cannot become "
                f"{val!r}; use another dataset name"
            )
            return
        super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """Returns a shallow copy of all attributes."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Sets several attributes and returns self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the attribute, or `default` if it was never set."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Dataset name -> its one Metadata object, made empty at the first `get`."""

    def get(self, name: str) -> Metadata:
        """Returns the Metadata of `name`, always the same object."""
        assert name, "MetadataCatalog.get needs a dataset name, got an empty one"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
