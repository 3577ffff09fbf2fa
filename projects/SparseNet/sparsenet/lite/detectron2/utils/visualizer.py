"""Stands in for detectron2.utils.visualizer: has boxes, labels and masks; lacks masks without
boxes, keypoints, rotated boxes, semantic and panoptic pictures."""

import colorsys
from enum import Enum, unique

import cv2
import matplotlib as mpl
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2._lacking import lacks
from detectron2.structures import BitMasks, Boxes, BoxMode, PolygonMasks
from matplotlib import colors as mplc
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_SMALL_AREA = 1000  # square pixels; labels of smaller boxes stand beside them


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    IMAGE = 0  # each at random
    SEGMENTATION = 1  # each like its class (metadata.thing_colors)
    IMAGE_BW = 2  # each at random, on an image that is grey outside the masks


class VisImage:
    """An RGB image (H, W, 3) as a matplotlib figure of one pixel per pixel, times ``scale``."""

    def __init__(self, img, scale=1.0):
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # matplotlib cuts sizes to whole pixels: a little more keeps the last one.
        sides = [(side * scale + 1e-2) / self.dpi for side in (self.width, self.height)]
        self.fig.set_size_inches(*sides)
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img):
        """Paints an image of the same size over everything."""
        extent = (0, self.width, self.height, 0)
        self.ax.imshow(img.astype("uint8"), extent=extent, interpolation="nearest")

    def save(self, filepath):
        """Writes a picture file; its ending tells the format."""
        self.fig.savefig(filepath)

    def get_image(self):
        """Returns the picture as uint8 RGB."""
        buffer, (width, height) = self.canvas.print_to_buffer()
        pixels = np.frombuffer(buffer, dtype="uint8").reshape(height, width, 4)
        return pixels[:, :, :3].copy()


class Visualizer:
    """Draws predictions or ground truth on one RGB image."""

    def __init__(
        self, img_rgb, metadata=None, scale=1.0, instance_mode=ColorMode.IMAGE, font_size_scale=1.0
    ):
        """Takes (H, W, 3) RGB in 0..255, metadata with class names and colours, the enlargement of
        the picture, how to colour, and the enlargement of the text."""
        if metadata is None:
            from detectron2.data import MetadataCatalog  # which itself imports utils

            metadata = MetadataCatalog.get("__nonexist__")
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self._diagonal = np.sqrt(self.output.height * self.output.width)
        self._default_font_size = max(self._diagonal // 90, 10 // scale) * font_size_scale
        self._instance_mode = instance_mode

    def draw_instance_predictions(self, predictions, jittering: bool = True):
        """Draws pred_boxes with "class score" labels, and pred_masks.

        Args:
            predictions: Instances on the CPU.
            jittering: vary the class's colour from object to object in SEGMENTATION mode.
        """
        if predictions.has("pred_keypoints"):
            raise lacks("Visualizer.draw_instance_predictions of pred_keypoints")
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        masks, colors = fields.get("pred_masks"), self._class_colors(classes, jittering)
        alpha = 0.5 if colors is None else 0.8
        if self._instance_mode == ColorMode.IMAGE_BW:
            picture = np.repeat(self.img.mean(axis=2, keepdims=True), 3, axis=2)
            if masks is not None:
                is_object = masks.any(dim=0).numpy()
                picture[is_object] = self.img[is_object]
            self.output.reset_image(picture)
            alpha = 0.3
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=self._labels(classes, fields.get("scores")),
            masks=masks,
            assigned_colors=colors,
            alpha=alpha,
        )

    def draw_dataset_dict(self, dic):
        """Draws the annotations of one image of a dataset: boxes and masks."""
        if any(dic.get(key) is not None for key in ("sem_seg_file_name", "pan_seg_file_name")):
            raise lacks("Visualizer.draw_dataset_dict of semantic or panoptic labels")
        annotations = dic.get("annotations")
        if not annotations:
            return self.output
        if "keypoints" in annotations[0]:
            raise lacks("Visualizer.draw_dataset_dict of keypoints")
        classes = [item["category_id"] for item in annotations]
        crowd = [item.get("iscrowd", 0) for item in annotations]
        has_masks = "segmentation" in annotations[0]
        return self.overlay_instances(
            labels=self._labels(classes, None, crowd),
            boxes=[
                BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
                for item in annotations
            ],
            masks=[item["segmentation"] for item in annotations] if has_masks else None,
            assigned_colors=self._class_colors(classes, True),
        )

    def overlay_instances(
        self,
        *,
        boxes=None,
        labels=None,
        masks=None,
        keypoints=None,
        assigned_colors=None,
        alpha=0.5,
    ):
        """Draws objects, the largest first.

        Args:
            boxes: Boxes or (N, 4) xyxy.
            labels: N texts.
            masks: BitMasks, PolygonMasks, or N times: a list of polygons [x0, y0, x1, y1, ...], an
                (H, W) mask, or COCO run lengths.
            keypoints: lacking.
            assigned_colors: N matplotlib colours; None: random ones.
            alpha: opacity of masks.
        """
        if keypoints is not None:
            raise lacks("Visualizer.overlay_instances(keypoints=...)")
        if boxes is None:
            if masks is None or len(masks) == 0:
                return self.output
            raise lacks("Visualizer.overlay_instances(masks=...) without boxes")
        boxes = boxes.tensor.detach().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes)
        if len(boxes) == 0:
            return self.output
        if boxes.shape[1] != 4:
            raise lacks("Visualizer.overlay_instances of rotated boxes")
        colors = assigned_colors or [_random_color() for _ in boxes]
        polygons = [[] for _ in boxes] if masks is None else _polygons_of(masks)
        assert len(polygons) == len(boxes), f"{len(polygons)} masks for {len(boxes)} boxes"
        for i in np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)):
            self.draw_box(boxes[i], edge_color=colors[i])
            for polygon in polygons[i]:
                self.draw_polygon(np.reshape(polygon, (-1, 2)), colors[i], alpha=alpha)
            if labels is not None:
                self._draw_label(labels[i], boxes[i], colors[i])
        return self.output

    def draw_text(
        self,
        text,
        position,
        *,
        font_size=None,
        color="g",
        horizontal_alignment="center",
        rotation=0,
    ):
        """Writes light text on a dark ground with its top at ``position`` (x, y)."""
        color = np.maximum(mplc.to_rgb(color), 0.2)
        color[color.argmax()] = max(0.8, color.max())
        self.output.ax.text(
            *position,
            text,
            size=(font_size or self._default_font_size) * self.output.scale,
            family="sans-serif",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=color,
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def draw_box(self, box_coord, alpha=0.5, edge_color="g", line_style="-"):
        """Draws the outline of one x1, y1, x2, y2 box."""
        x1, y1, x2, y2 = box_coord
        self.output.ax.add_patch(
            mpl.patches.Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=edge_color,
                linewidth=max(self._default_font_size / 4, 1) * self.output.scale,
                alpha=alpha,
                linestyle=line_style,
            )
        )
        return self.output

    def draw_polygon(self, segment, color, edge_color=None, alpha=0.5):
        """Fills a polygon of (N, 2) points."""
        if edge_color is None:
            edge_color = _change_lightness(color, 0.3) if alpha > 0.8 else color
        self.output.ax.add_patch(
            mpl.patches.Polygon(
                segment,
                fill=True,
                facecolor=(*mplc.to_rgb(color), alpha),
                edgecolor=(*mplc.to_rgb(edge_color), 1),
                linewidth=max(self._default_font_size // 15 * self.output.scale, 1),
            )
        )
        return self.output

    def get_output(self):
        """Returns the picture with everything drawn so far."""
        return self.output

    def _draw_label(self, label, box, color):
        x1, y1, x2, y2 = box
        position, scale = (x1, y1), self.output.scale
        if (y2 - y1) * (x2 - x1) < _SMALL_AREA * scale or y2 - y1 < 40 * scale:
            # Beside the object, so as not to hide it.
            position = (x2, y1) if y2 >= self.output.height - 5 else (x1, y2)
        share = (y2 - y1) / self._diagonal
        factor = np.clip((share - 0.02) / 0.08 + 1, 1.2, 2) / 2
        self.draw_text(
            label,
            position,
            color=_change_lightness(color, 1.7),
            horizontal_alignment="left",
            font_size=factor * self._default_font_size,
        )

    def _labels(self, classes, scores, crowd=None):
        names = self.metadata.get("thing_classes", None)
        if classes is None:
            return None if scores is None else [f"{score * 100:.0f}%" for score in scores]
        labels = [names[c] if names else str(c) for c in classes]
        if scores is not None:
            labels = [f"{label} {score * 100:.0f}%" for label, score in zip(labels, scores)]
        if crowd is not None:
            labels = [f"{label}|crowd" if c else label for label, c in zip(labels, crowd)]
        return labels

    def _class_colors(self, classes, jittering):
        palette = self.metadata.get("thing_colors", None)
        if self._instance_mode != ColorMode.SEGMENTATION or not palette:
            return None
        colors = [np.asarray(palette[c]) / 255 for c in classes]
        return [tuple(_jitter(color) if jittering else color) for color in colors]


def _polygons_of(masks) -> list[list]:
    """Of each object, its polygons [x0, y0, x1, y1, ...]; those of holes among them."""
    if isinstance(masks, PolygonMasks):
        return masks.polygons
    masks = masks.tensor if isinstance(masks, BitMasks) else masks
    masks = masks.numpy() if isinstance(masks, torch.Tensor) else masks
    return [mask if isinstance(mask, list) else _outlines(mask) for mask in masks]


def _outlines(mask) -> list[np.ndarray]:
    """The polygons of an (H, W) mask or of COCO run lengths."""
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            mask = mask_util.frPyObjects(mask, *mask["size"])
        mask = mask_util.decode(mask)
    pixels = np.ascontiguousarray(mask, dtype=np.uint8)
    contours, _ = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # OpenCV counts pixels; their centres lie half a pixel further.
    return [contour.reshape(-1) + 0.5 for contour in contours if len(contour) >= 3]


def _random_color() -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(np.random.rand(), 0.9, 0.9)


def _jitter(color: np.ndarray) -> np.ndarray:
    direction = np.random.rand(3)
    return np.clip(color + direction / np.linalg.norm(direction) * 0.5, 0, 1)


def _change_lightness(color, factor: float) -> tuple[float, float, float]:
    hue, lightness, saturation = colorsys.rgb_to_hls(*mplc.to_rgb(color))
    return colorsys.hls_to_rgb(hue, min(lightness * factor, 1.0), saturation)
