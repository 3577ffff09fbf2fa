"""Small cut-outs, ground photos and layouts for the tests of composed scenes."""

import json

import cv2
import numpy as np


def photo_of(category, seed, size=(240, 320)):
    """A noisy photo with one or two textured ellipses, and their annotations without ids."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(90, 130, (*size, 3)).astype(np.uint8)
    centre, axes = ((100, 120), (30, 90)) if category == "person" else ((160, 120), (110, 60))
    outline = cv2.ellipse2Poly(centre, axes, 0, 0, 360, 6)
    tones = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [outline], 1)
    photo[mask > 0] = tones[mask > 0]
    box = [int(v) for v in (*outline.min(0), *np.ptp(outline, axis=0))]
    return photo, {"bbox": box, "segmentation": [outline.ravel().tolist()], "iscrowd": 0}


def write_coco(folder, entries, names=("person", "car")):
    """``entries``: (file name, photo, annotations with 'category')."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (name, photo, found) in enumerate(entries, start=1):
        cv2.imwrite(str(folder / name), photo)
        images.append(
            {"id": number, "file_name": name, "height": photo.shape[0], "width": photo.shape[1]}
        )
        for item in found:
            category = names.index(item["category"]) + 1
            record = {k: v for k, v in item.items() if k != "category"}
            record.update(id=len(annotations) + 1, image_id=number, category_id=category)
            annotations.append(record)
    categories = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
    path = folder / "instances.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def write_sources(folder):
    """A small set of cut-outs, ground photos and a layout of four scenes."""
    entries = []
    for i in range(6):
        for category in ("person", "car"):
            photo, item = photo_of(category, i)
            entries.append((f"{category}{i}.png", photo, [{**item, "category": category}]))
    cutouts = write_coco(folder / "cutouts", entries)
    ground = folder / "ground"
    ground.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(60, 120, (40, 50, 3)).astype(np.uint8)
        cv2.imwrite(str(ground / f"g{i}.png"), cv2.resize(noise, (700, 600)))
    images, annotations = [], []
    for i in range(1, 5):
        images.append({"id": i, "file_name": f"IMG_0{i}_29.jpg", "height": 500, "width": 640})
        for bbox, category in (
            ([50, 60, 30, 80], 1),
            ([300, 200, 160, 90], 2),
            ([310, 150, 60, 180], 1),
        ):
            record = {"id": len(annotations), "image_id": i, "category_id": category}
            annotations.append({**record, "bbox": bbox, "iscrowd": 0})
    layout = folder / "layout.json"
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"}]
    layout.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return {"cutouts": (cutouts,), "ground": ground, "layout": layout}
