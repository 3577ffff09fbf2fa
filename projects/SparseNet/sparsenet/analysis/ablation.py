"""Trains variants of one configuration with several seeds and compares them.

Every run is a process of ``train_net.py`` in a folder of its own. A finished run leaves a
``result.json`` and is not repeated; one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsenet.analysis.curves import read_metrics
from sparsenet.config import load_config
from sparsenet.errors import ConfigError, DatasetError
from sparsenet.files import make_folder, write_bytes

_FORM = "config_file: path, seeds: [1, 2], common: {KEY: value}, variants: {name: {KEY: value}}"
_RESULT, _SETTINGS, _CONSOLE = "result.json", "run.json", "console.txt"


@dataclass(frozen=True)
class AblationRun:
    """One training.

    Attributes:
        variant: its name.
        folder: gets everything that the run writes.
        overrides: alternating keys and values for the configuration, without the folder.
    """

    variant: str
    seed: int
    folder: Path
    config_file: str
    overrides: tuple[str, ...]

    @property
    def opts(self) -> list[str]:
        """All overrides of the training."""
        return [*self.overrides, "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]

    def result(self) -> dict[str, Any] | None:
        """The final metrics; None where the run has not ended.

        Raises:
            ConfigError: If the folder holds a run with other settings.
        """
        settings, result = self.folder / _SETTINGS, self.folder / _RESULT
        if settings.is_file() and json.loads(settings.read_text()) != self._settings():
            raise ConfigError(
                f"{self.folder} holds a run with other settings ({settings.name}). Choose another "
                "--output, or remove the folder."
            )
        return json.loads(result.read_text()) if result.is_file() else None

    def note_settings(self) -> None:
        """Writes down what this folder is for."""
        make_folder(self.folder)
        write_bytes(self.folder / _SETTINGS, json.dumps(self._settings(), indent=1).encode())

    def _settings(self) -> dict[str, Any]:
        return {"config_file": self.config_file, "opts": self.opts}


def read_ablation(path: Path, output: Path, extra: tuple[str, ...] = ()) -> list[AblationRun]:
    """The runs that an ablation file describes, seed by seed, so that early results compare.

    Args:
        path: YAML file with ``config_file``, ``seeds``, ``common`` and ``variants``.
        output: folder of all runs.
        extra: further overrides for every run, alternating keys and values.

    Raises:
        ConfigError: If the file has another form, or a configuration does not load.
    """
    content = _read_yaml(path)
    common = _as_words(content.get("common") or {})
    runs = []
    for seed in content["seeds"]:
        for variant, own in content["variants"].items():
            folder = output / re.sub(r"[^\w.-]+", "_", variant) / f"seed_{seed}"
            overrides = (*common, *_as_words(own or {}), *extra)
            runs.append(AblationRun(variant, seed, folder, content["config_file"], overrides))
    for run in runs:
        load_config(run.config_file, run.opts)
    if len({run.folder for run in runs}) < len(runs):
        raise ConfigError(f"{path}: seeds and names of variants must differ in letters or digits.")
    return runs


def train(
    run: AblationRun,
    train_net: Path,
    *,
    num_gpus: int,
    metric: str,
    on_start: Callable[[AblationRun], None] = lambda run: None,
) -> dict[str, float]:
    """Trains and evaluates, unless that was done before.

    Args:
        train_net: the training script.
        metric: key of ``metrics.json`` that the last evaluation must have written.
        on_start: called before a training that really happens.

    Returns:
        The metrics of the last evaluation, by their keys in ``metrics.json``.

    Raises:
        ConfigError: If the training fails; its console output is kept in the run's folder.
        DatasetError: If it wrote no such metric.
    """
    known = run.result()
    if known is not None:
        return known
    on_start(run)
    run.note_settings()
    command = [sys.executable, str(train_net), "--config-file", run.config_file, "--resume"]
    command += ["--num-gpus", str(num_gpus), *run.opts]
    console = run.folder / _CONSOLE
    with console.open("a") as stream:
        status = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    if status != 0:
        last = "\n".join(console.read_text().splitlines()[-3:])
        raise ConfigError(
            f"The training of {run.variant!r} with seed {run.seed} must end with status 0, got "
            f"{status}. The end of {console}:\n{last}"
        )
    evaluations = [line for line in read_metrics(run.folder) if metric in line]
    if not evaluations:
        raise DatasetError(
            f"{run.folder}/metrics.json must hold {metric!r} after the training, it does not. "
            "Set DATASETS.TEST, or choose another --metric."
        )
    result = {key: value for key, value in evaluations[-1].items() if "/" in key}
    write_bytes(run.folder / _RESULT, json.dumps(result, indent=1).encode())
    return result


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
        is_sound = (
            isinstance(content["config_file"], str)
            and all(isinstance(seed, int) for seed in content["seeds"])
            and content["seeds"]
            and all(isinstance(own, dict | None) for own in content["variants"].values())
            and content["variants"]
            and set(content) <= {"config_file", "seeds", "common", "variants"}
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} must have the form {_FORM}; {error!r}.") from error
    if not is_sound:
        raise ConfigError(f"{path} must have the form {_FORM}; got {content!r}.")
    return content


def _as_words(overrides: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(word) for pair in overrides.items() for word in pair)
