"""Stands in for detectron2.utils.file_io: has PathManager with https:// and detectron2://; lacks
OneDrive and catalog:// addresses."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathHandler", "PathManager"]

PathManager = _PathManager()


class Detectron2Handler(PathHandler):
    """``detectron2://name`` is a file on the public server of the model zoo."""

    PREFIX = "detectron2://"
    S3_DETECTRON2_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _to_url(self, path):
        return self.S3_DETECTRON2_PREFIX + path.removeprefix(self.PREFIX)

    def _get_local_path(self, path, **kwargs):
        return PathManager.get_local_path(self._to_url(path), **kwargs)

    def _open(self, path, mode="r", **kwargs):
        return PathManager.open(self._to_url(path), mode, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())
