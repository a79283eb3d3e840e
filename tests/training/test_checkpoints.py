"""Best and last checkpoints; full disks; Ctrl-C; early stopping."""

import errno
import signal
from pathlib import Path

import pytest
import torch

from graphattn.training import GraphPredictor, checkpoints, train
from graphattn.training.checkpoints import Interrupted, OrderlyInterrupts, WholeFiles


def test_checkpoints_hold_no_code(finished) -> None:
    contents = torch.load(Path(finished.folder) / "checkpoints" / "best.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "resume", "graphattn"} <= set(contents)


def test_a_full_disk_ends_the_run_loses_nothing_and_says_how_to_go_on(make_config, tmp_path, monkeypatch, same) -> None:
    whole = train(make_config())
    write = checkpoints.write_whole

    def full(path: Path, payload: bytes) -> None:
        if path.name == "last.ckpt" and path.exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, payload)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_whole", full)
        with pytest.raises(OSError, match=r"the disk is full: a checkpoint needs .* --resume"):
            train(make_config(), folder=tmp_path / "full")
    there = {path.name for path in (tmp_path / "full" / "checkpoints").iterdir()}
    assert "last.ckpt" in there and not any("part" in name for name in there)
    train(resume=tmp_path / "full")
    assert same(Path(whole.folder) / "checkpoints" / "last.ckpt", tmp_path / "full" / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [2, 5])  # in the middle of an epoch, and in its last step
def test_a_signal_in_an_epoch_saves_and_the_run_goes_on_to_the_same_bits(
    make_config, tmp_path, monkeypatch, same, number: signal.Signals, step: int
) -> None:
    whole = train(make_config())
    loss, calls = GraphPredictor.loss, []

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) == step + 1:
            signal.raise_signal(number)
        return loss(self, batch)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(GraphPredictor, "loss", interrupted)
        with pytest.raises(Interrupted) as stopped:
            train(make_config(), folder=tmp_path / "stopped")
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is handler
    assert torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt")["global_step"] == step + 1
    assert not (tmp_path / "stopped" / "result.json").exists()
    train(resume=tmp_path / "stopped")
    assert same(Path(whole.folder) / "checkpoints" / "last.ckpt", tmp_path / "stopped" / "checkpoints" / "last.ckpt")


def test_the_second_signal_interrupts_at_once() -> None:
    with OrderlyInterrupts() as interrupts:
        assert interrupts.number is None
        signal.raise_signal(signal.SIGINT)
        assert interrupts.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_training_stops_when_nothing_gets_better(make_config) -> None:
    settings = ["--training.max_epochs", "9", "--training.patience", "2", "--training.lr", "1e-30"]
    result = train(make_config(*settings, "--model.norm", "layer"))
    assert result.num_epochs < 9
    assert result.num_epochs == result.best_epoch + 2
    (Path(result.folder) / "result.json").unlink()  # as if the process had ended before it wrote the result
    resumed = train(resume=result.folder)
    assert (resumed.num_steps, resumed.test) == (result.num_steps, result.test)


def test_a_file_appears_whole_or_the_old_one_stays(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.ckpt"
    files = WholeFiles()
    files.save_checkpoint({"a": torch.ones(3)}, path)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            files.save_checkpoint({"a": torch.zeros(3)}, path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.ckpt"]
    assert float(files.load_checkpoint(path)["a"].sum()) == 3
