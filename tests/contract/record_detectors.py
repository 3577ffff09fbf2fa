"""Records what the real Detectron2 does in the cases of detector_cases.py and mask_cases.py:

    python tests/contract/record_detectors.py

Run it from the repository's root in an environment with the real package; it rewrites the files
detectors.json, detectors.npz and detector_signatures.json in tests/contract/records.
"""

import sys
import warnings
from pathlib import Path

import detectron2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contract import detector_cases, mask_cases
from contract.record_core import write
from contract.signatures import public_names

RECORDS = Path(__file__).parent / "records"

MODULES = """layers.mask_ops modeling.anchor_generator modeling.meta_arch.dense_detector
modeling.meta_arch.rcnn modeling.meta_arch.retinanet modeling.meta_arch.semantic_seg
modeling.proposal_generator modeling.proposal_generator.build
modeling.proposal_generator.proposal_utils modeling.proposal_generator.rpn modeling.roi_heads
modeling.roi_heads.box_head modeling.roi_heads.fast_rcnn modeling.roi_heads.mask_head
modeling.roi_heads.roi_heads modeling.sampling structures.masks
evaluation.sem_seg_evaluation""".split()


def main() -> None:
    if "lite" in detectron2.__version__:
        sys.exit("record_detectors.py needs the real Detectron2, but sparsenet/lite is active.")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    values, arrays = {}, {}
    for case in detector_cases.CASES + mask_cases.CASES:
        record = case()
        for key in [key for key, value in record.items() if isinstance(value, np.ndarray)]:
            arrays[f"{case.__name__}/{key}"] = record.pop(key).astype(np.float32)
        values[case.__name__] = record
    versions = {"detectron2": detectron2.__version__, "torch": torch.__version__}
    write("detectors.json", {"versions": versions, **values})
    write(
        "detector_signatures.json", {name: public_names(f"detectron2.{name}") for name in MODULES}
    )
    np.savez_compressed(RECORDS / "detectors.npz", **arrays)


if __name__ == "__main__":
    main()
