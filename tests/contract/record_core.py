"""Records what the real Detectron2 does: python tests/contract/record_core.py

Run it from the repository's root in an environment with the real package; it rewrites the files
core_*.json and core_values.npz in tests/contract/records.
"""

import json
import sys
import warnings
from pathlib import Path

import detectron2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contract import core_model_cases, core_training_cases
from contract.signatures import MODULES, public_names

RECORDS = Path(__file__).parent / "records"


def main() -> None:
    if "lite" in detectron2.__version__:
        sys.exit(
            "record_core.py needs the real Detectron2, but sparsenet/lite is first on sys.path."
        )
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    values, arrays = {}, {}
    for case in core_model_cases.CASES + core_training_cases.CASES:
        record = case()
        for key in [key for key, value in record.items() if isinstance(value, np.ndarray)]:
            arrays[f"{case.__name__}/{key}"] = record.pop(key).astype(np.float32)
        values[case.__name__] = record
    versions = {"detectron2": detectron2.__version__, "torch": torch.__version__}
    write("core_values.json", {"versions": versions, **values})
    write("core_signatures.json", {name: public_names(name) for name in MODULES})
    np.savez_compressed(RECORDS / "core_values.npz", **arrays)


def write(name: str, content: dict) -> None:
    """One line per inner key: small files, readable differences."""
    blocks = []
    for key, items in sorted(content.items()):
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(items.items())]
        blocks.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
    (RECORDS / name).write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
