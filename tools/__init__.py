"""Commands. A package, or else the real Detectron2, which installs one of this name, hides it."""
