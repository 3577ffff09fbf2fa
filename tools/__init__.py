"""Commands. A package, so that the real Detectron2, which installs one of this name, does not hide it."""
