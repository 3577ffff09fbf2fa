"""From a recipe and a seed to folders of scenes: chooses the sources, composes, writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsenet.data.scenes.cutouts import load_cutouts, split_members
from sparsenet.data.scenes.files import check_format, write_annotations, write_scene
from sparsenet.data.scenes.ground import PhotoGround, list_photos
from sparsenet.data.scenes.layout import choose_layout, load_layouts, place_cutouts
from sparsenet.data.scenes.scene import SceneComposer, TruthOptions
from sparsenet.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

# (composer, what to note in the image's record)
_Scene = tuple[SceneComposer, dict[str, Any]]


@dataclass(frozen=True)
class SceneRecipe:
    """What a scene is made of. Either drawn, or of real cut-outs, ground and layout together.

    Args:
        size: ``(height, width)`` of a drawn scene in pixels.
        density: Factor on the number of objects of a drawn scene.
        cutouts: COCO files to cut objects out of; empty for a drawn scene.
        ground: Folder of ground photos.
        layout: COCO file whose boxes place the objects.
        layout_image: File name, stem or position of the layout to use; None: one after another.
        scale: Factor on the layout's size and on its boxes.
        split: ``"train"``, ``"eval"`` or ``"all"``: the part of all real sources to use.
        train_share: Share of the sources that belongs to training.
        same_source: Prefixes of cut-out photos that are never divided.
    """

    size: tuple[int, int] = (12_288, 17_408)
    density: float = 1.0
    cutouts: tuple[Path, ...] = ()
    ground: Path | None = None
    layout: Path | None = None
    layout_image: str | None = None
    scale: float = 1.0
    split: str = "all"
    train_share: float = 0.7
    same_source: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = {"--cutouts": self.cutouts, "--ground": self.ground, "--layout": self.layout}
        given = [name for name, value in parts.items() if value]
        if given and len(given) < len(parts):
            raise ConfigError(
                f"A scene of real cut-outs needs {', '.join(parts)} together, got only "
                f"{', '.join(given)}. Give all three, or none for a drawn scene."
            )
        if min(self.size) < 64 or self.scale <= 0 or self.density < 0:
            raise ConfigError(
                "A scene needs sides of 64 px or more, a scale above 0 and a density of 0 or more, "
                f"got size {self.size}, scale {self.scale}, density {self.density}."
            )

    @property
    def is_real(self) -> bool:
        """Whether it uses real cut-outs."""
        return bool(self.cutouts)

    def note(self) -> dict[str, Any]:
        """What the annotation file records; file names only, so that it is the same anywhere."""
        if not self.is_real:
            return {"kind": "drawn", "size": list(self.size), "density": self.density}
        assert self.ground is not None and self.layout is not None, "checked by __post_init__"
        return {
            "kind": "cutouts",
            "cutouts": [f"{p.parent.name}/{p.name}" for p in self.cutouts],
            "ground": self.ground.name,
            "layout": self.layout.name,
            "scale": self.scale,
            "split": self.split,
            "train_share": self.train_share,
            "same_source": list(self.same_source),
        }


def make_scenes(
    recipe: SceneRecipe,
    output: Path,
    *,
    seed: int,
    num_scenes: int = 1,
    formats: Sequence[str] = ("jpeg", "tiff"),
    quality: int = 88,
    truth: TruthOptions | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Composes ``num_scenes`` scenes into a folder. The same arguments give the same bytes.

    Args:
        recipe: What they are made of.
        output: Folder for ``scene_SEED.jpg``, ``scene_SEED.tif``, ``scene_SEED_contact_sheet.jpg``
            and ``annotations.json``; created if missing.
        seed: Scene ``i`` is made from ``seed + i``.
        num_scenes: How many.
        formats: ``"jpeg"`` and/or ``"tiff"``.
        quality: JPEG quality of both formats.
        truth: What becomes ignore.
        quiet: No progress bars.

    Returns:
        The content of ``annotations.json``.

    Raises:
        ConfigError: If the arguments contradict each other or a format cannot hold a scene.
        OutputError: If the folder cannot be written.
    """
    if num_scenes < 1 or seed < 0 or not 1 <= quality <= 100:
        raise ConfigError(
            "At least one scene, a seed of 0 or more and a quality of 1 to 100 are needed, got "
            f"{num_scenes}, {seed} and {quality}."
        )
    if not recipe.is_real:
        check_format(recipe.size, formats)
    prepare = _real_scenes(recipe, quiet) if recipe.is_real else _drawn_scenes(recipe)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} must be a folder that can be written: {error}.") from error
    scenes = []
    for index in range(num_scenes):
        composer, note = prepare(seed + index, index)
        stem = output / f"scene_{seed + index:04d}"
        image, found = write_scene(
            composer, stem, formats=formats, quality=quality, truth=truth, quiet=quiet
        )
        scenes.append(({**image, "seed": seed + index, **note}, found))
        logger.info("%s: %d objects", image["file_name"], len(found))
    info = {"description": "composed scenes", "seed": seed, **recipe.note()}
    return write_annotations(output / "annotations.json", scenes, info)


def _real_scenes(recipe: SceneRecipe, quiet: bool) -> Callable[[int, int], _Scene]:
    """A function of (seed, index) that prepares a scene; loads the sources once."""
    assert recipe.ground is not None and recipe.layout is not None, "checked by the recipe"
    part, share = recipe.split, recipe.train_share
    layouts = load_layouts(recipe.layout, part=part, train_share=share)
    photos = list_photos(recipe.ground)
    photos = split_members(photos, part, share, [p.name for p in photos])
    cutouts = load_cutouts(
        recipe.cutouts,
        part=part,
        train_share=share,
        same_source=recipe.same_source,
        quiet=quiet,
    )

    def prepare(seed: int, index: int) -> _Scene:
        layout = choose_layout(layouts, recipe.layout_image, index).scaled(recipe.scale)
        ground = PhotoGround(photos, layout.size, seed=seed)
        placements = place_cutouts(layout, cutouts, seed=seed)
        return SceneComposer(ground, placements), {"layout": layout.name}

    return prepare


def _drawn_scenes(recipe: SceneRecipe) -> Callable[[int, int], _Scene]:
    from sparsenet.data.scenes.drawn import draw_scene

    def prepare(seed: int, index: int) -> _Scene:
        ground, placements = draw_scene(recipe.size, seed=seed, density=recipe.density)
        return SceneComposer(ground, placements), {}

    return prepare
