"""Package metadata. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE_DIR = ROOT / "projects" / "SparseNet"
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (PACKAGE_DIR / "sparsenet" / "__init__.py").read_text(), re.M
).group(1)

INSTALL_REQUIRES = [
    "torch>=2.4",  # scaled_dot_product_attention with a bias, torch.load(weights_only=True) for all our files
    "torchvision>=0.19",  # roi_align, nms, the ResNet weights' key schema; the release that matches torch 2.4
    "numpy>=1.26",  # Generator API used by the samplers; first release for Python 3.12
    "fvcore>=0.1.5,<0.1.6",  # Registry, parameter schedules, checkpoint base class; Detectron2's own pin
    "iopath>=0.1.7,<0.1.11",  # PathManager; what Detectron2 pins
    "yacs>=0.1.8",  # CfgNode underneath fvcore's
    "PyYAML>=6.0",  # errors of malformed config files; yacs brings it, but we import it ourselves
    "opencv-python-headless>=4.8",  # drawing and resampling without a display server
    "Pillow>=9.5",  # image headers and EXIF of training photos
    "pycocotools>=2.0.7",  # COCO json index and RLE; first wheels for Python 3.12
    "scipy>=1.10",  # linear_sum_assignment of the Hungarian matcher
    "tabulate>=0.9",  # result tables
    "termcolor>=2.0",  # coloured log lines, as Detectron2's
    "tqdm>=4.65",  # progress bars
    "cloudpickle>=2.2",  # dataset functions sent to spawned workers
    "tensorboard>=2.12",  # TensorboardXWriter
    "matplotlib>=3.7",  # Visualizer
]

GIGAPIXEL = [
    "pyvips>=2.2.3",  # streamed decoding in bounded memory; first release with numpy interfaces both ways
    "pyvips-binary>=8.15; platform_system != 'Windows'",  # libvips itself, no system package needed
    "shapely>=2.0",  # STRtree bulk query for the seam merge
    "faster-coco-eval>=1.6",  # COCO metrics at 500+ detections per image, 65 times faster than pycocotools
]

WSI = [
    "openslide-python>=1.3",  # slides: SVS, NDPI, MRXS …; first release with colour profiles
    "openslide-bin>=4.0",  # OpenSlide itself, no system package needed; the version that has profiles
]

GEO = [
    "rasterio>=1.4",  # GeoTIFF and COG with their place on the map, JPEG 2000; first release for numpy 2
]

CLASSIFICATION = [
    "timm>=1.0",  # registry, augmentation, losses and schedules of classifiers; forward_head(pre_logits=)
    "scikit-learn>=1.3",  # k-means, silhouette and NMI of embeddings; first wheels for Python 3.12
]

SEARCH = [
    "faiss-cpu>=1.8",  # nearest neighbours among many embeddings; first for numpy 2
]

EXTRAS_REQUIRE = {
    "gigapixel": GIGAPIXEL,
    "wsi": [*GIGAPIXEL, *WSI],
    "geo": [*GIGAPIXEL, *GEO],
    "classification": CLASSIFICATION,
    "search": [*CLASSIFICATION, *SEARCH],
    "ray": [
        "ray[data]>=2.9",  # tools/predict_ray.py: images on many machines; first with concurrency=
    ],
    "onnx": [
        "onnxruntime>=1.18",  # detectors of other projects in our predictor; first for numpy 2
    ],
    "sahi": [
        *GIGAPIXEL,
        "sahi>=0.12",  # our models in SAHI's slicing; first release with batches of slices
    ],
    "bench": [
        *GIGAPIXEL,
        "onnxruntime>=1.18",  # tools/benchmark_gigapixel.py runs one network in all contenders
        "sahi>=0.12",  # a contender
        "supervision>=0.26",  # a contender, and where Detections.to_supervision leads
    ],
    # Not on any registry: built from its repository. Needs `--no-build-isolation` and setuptools<81 (README).
    "detectron2": [
        "detectron2 @ git+https://github.com/facebookresearch/detectron2"
        "@02b5c4e295e990042a714712c21dc79b731e8833"
    ],
    "test": [
        *GIGAPIXEL,
        *WSI,
        *GEO,
        *CLASSIFICATION,
        *SEARCH,
        "tifffile>=2023.1",  # writes the OME-TIFF files that tests read
        "pytest>=7.4",
        "pytest-xdist>=3.3",  # two workers on two cores
        "hypothesis>=6.80",  # property tests of windows, grids and merge
        "onnxscript>=0.1",  # torch.onnx's exporter of our operators; brings onnx
        "onnxruntime>=1.18",  # runs what was exported, to compare with torch
        "geojson>=3.0",  # checks that our GeoJSON is valid
        "ruff>=0.6",
        "mypy>=1.10",
    ],
}

setup(
    name="sparsenet",
    version=VERSION,
    description="Object detection in gigapixel images with sparse backbones and learnable proposals",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "projects/SparseNet"},
    packages=find_packages("projects/SparseNet", include=["sparsenet", "sparsenet.*"]),
    package_data={
        "sparsenet.gigapixel": ["viewer_assets/*"],
        "sparsenet.embedding": ["gallery_assets/*"],
    },
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
