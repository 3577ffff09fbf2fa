"""Records what the real Detectron2 does in the cases of data_cases.py and engine_cases.py.

`records/data_engine.json` was made with commit 02b5c4e2; the tests demand the same numbers of
whichever Detectron2 is active. To record anew, with the real one installed:

    SPARSENET_DETECTRON2=real PYTHONPATH=projects/SparseNet:tests \
        python -m contract.record_data_engine
"""

import json
import re
from pathlib import Path

from contract import data_cases, engine_cases
from contract.signatures import public_names

import sparsenet

RECORD = Path(__file__).parent / "records" / "data_engine.json"

MODULES = """data data.build data.catalog data.common data.dataset_mapper data.detection_utils
data.datasets data.datasets.builtin data.datasets.coco data.samplers data.transforms engine
engine.defaults engine.hooks engine.launch engine.train_loop evaluation evaluation.coco_evaluation
evaluation.evaluator evaluation.testing""".split()


def signatures():
    """module -> its public names with their parameters."""
    names = {module: public_names(f"detectron2.{module}") for module in MODULES}
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", json.dumps(names)))


DATA_CASES = (
    data_cases.sampler_orders,
    data_cases.repeat_factors,
    data_cases.loader_orders,
    data_cases.mapper_outputs,
    data_cases.transform_draws,
    data_cases.transform_numbers,
    data_cases.coco_dicts,
    data_cases.coco_names,
)
ENGINE_CASES = (
    engine_cases.coco_numbers,
    engine_cases.train_loader_order,
    engine_cases.trainer_run,
    engine_cases.scaled_config,
    engine_cases.parser_options,
    engine_cases.launched,
)


def main():
    """Records all cases."""
    if sparsenet.DETECTRON2 != "real":
        raise SystemExit("records are made with the real Detectron2: SPARSENET_DETECTRON2=real")
    record = {
        case.__name__: data_cases.jsonable(case())
        for case in (*DATA_CASES, *ENGINE_CASES, signatures)
    }
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
