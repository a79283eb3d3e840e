"""From a folder back to the module."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.data import load
from graphattn.training import load_run, predict_split
from graphattn.training.folder import make_run_folder


def test_the_loaded_module_predicts_what_the_run_stored(finished) -> None:
    predictor = load_run(finished.folder)
    assert not predictor.training
    found = predict_split(predictor, load("toy_rings:rings"), "test")
    with np.load(Path(finished.folder) / "predictions_test.npz") as stored:
        np.testing.assert_array_equal(found.y_pred, stored["y_pred"])


def test_other_checkpoints_are_loaded_by_name(finished) -> None:
    first, last = (load_run(finished.folder, name).state_dict() for name in ("step-2.ckpt", "last.ckpt"))
    assert any(not torch.equal(value, last[name]) for name, value in first.items())
    with pytest.raises(FileNotFoundError, match=r"has no mine\.ckpt; there is best\.ckpt"):
        load_run(finished.folder, "mine.ckpt")


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    made = make_run_folder(tmp_path / "run")
    made.config.write_text("seed: 0")
    with pytest.raises(FileNotFoundError, match="The run ended before its first one"):
        load_run(made.path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(finished, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"best\.ckpt is damaged or no checkpoint"):
        load_run(tmp_path / "run")


def test_a_file_of_something_else_is_refused(finished, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    torch.save({"weights": torch.ones(3)}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint that `graphattn train` wrote"):
        load_run(tmp_path / "run")


def test_an_edited_configuration_is_refused(finished, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("embed_dim: 8", "embed_dim: 16"))
    with pytest.raises(ValueError, match=r"another model: it has model\.embed_dim 8 \(here 16\)"):
        load_run(tmp_path / "run")


@pytest.mark.slow
def test_loading_needs_no_lightning(finished) -> None:
    code = (
        "import sys; from graphattn.training import load_run; load_run(sys.argv[1]);"
        "print([name for name in ('lightning', 'tensorboard', 'ogb', 'rdkit') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, finished.folder], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
