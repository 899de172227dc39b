"""Encoders of the user's own: wrapped ones give the same, and wrong ones one clear error each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import noise, tiny_encoder
from speechft.encoders.load import digest_of, load_encoder
from speechft.encoders.user_code import own_digest, typed_encoder
from speechft.encoders.user_encoder import UserEncoder, user_encoder
from speechft.errors import CheckpointError, ConfigError


class Wrapped(nn.Module):
    """A tiny HuBERT as a user would write it, one utterance at a time."""

    sampling_rate = 16_000
    output_dim = 24
    hop_size_in_ms = 20
    receptive_field_in_ms = 25

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_encoder(3)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        return list(self.inner(waveforms, lengths).layers)


class Counting(Wrapped):
    """The same in batches: it says how many frames are valid."""

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        return self.inner.frame_lengths(lengths)


class Plain:
    """No module: windows of 10 ms, at a rate of its own."""

    sampling_rate: Any = 8_000
    output_dim: Any = 3
    hop_size_in_ms: Any = 10.0

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> Any:
        frames = waveforms.unfold(1, 80, 80)
        return torch.stack([frames.mean(-1), frames.amax(-1), frames.std(-1)], -1)


@pytest.mark.parametrize("kind", [Wrapped, Counting])
def test_a_wrapped_encoder_gives_the_same(kind: type) -> None:
    module = kind()
    wrapped = UserEncoder(module, "mine").eval()
    waveforms, lengths = noise(16_000, 719, 9_013, 400)
    with torch.inference_mode():
        found, expected = wrapped(waveforms, lengths), module.inner(waveforms, lengths)
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert wrapped.num_layers == 2
    assert wrapped.timing == module.inner.timing
    assert wrapped.frame_lengths(lengths).tolist() == expected.lengths.tolist()
    for one, two in zip(found.layers, expected.layers, strict=True):
        for row, count in enumerate(expected.lengths.tolist()):
            torch.testing.assert_close(one[row, :count], two[row, :count], atol=1e-5, rtol=0)


def test_another_rate_is_resampled_to() -> None:
    encoder = UserEncoder(Plain(), "mine").eval()
    assert (encoder.num_layers, encoder.dim, encoder.hop_size) == (0, 3, 160)
    time = torch.arange(16_000) / 16_000
    waveform = (0.5 * torch.sin(2 * torch.pi * 100 * time))[None]
    output = encoder(waveform, torch.tensor([16_000]))
    assert output.lengths.tolist() == [100]
    middle = output.layers[0][0, 10:90]
    torch.testing.assert_close(middle[:, 0], torch.zeros(80), atol=2e-3, rtol=0)
    torch.testing.assert_close(middle[:, 1], torch.full((80,), 0.5), atol=5e-3, rtol=0)


def changed(**attributes: Any) -> Callable[[], Any]:
    return lambda: type("Wrong", (Plain,), attributes)()


def gives(result: Callable[[Tensor], Any]) -> Callable[[], Any]:
    return changed(__call__=lambda self, waveforms, lengths: result(waveforms))


def frames_of(waveforms: Tensor, samples: int = 80, dim: int = 3) -> Tensor:
    return torch.zeros(len(waveforms), waveforms.shape[1] // samples, dim)


def fail(_: Tensor) -> Tensor:
    raise ValueError("no such file: weights.pt")


WRONG = {
    "no rate": (changed(sampling_rate=None), r"sampling_rate is None; expected are sampling_rate"),
    "text": (changed(output_dim="768"), "output_dim is '768'; expected are"),
    "negative hop": (changed(hop_size_in_ms=-20), "hop_size_in_ms is -20; expected are"),
    "not even": (changed(hop_size_in_ms=13.33), r"13\.33 is 213\.28 samples of 16 kHz"),
    "no attribute": (lambda: lambda waveforms, lengths: waveforms, "sampling_rate is missing"),
    "no call": (object, "mine cannot be called; expected are"),
    "wrong hop": (changed(hop_size_in_ms=20.0), r"2\.00 s gave 200 frames; .* about 100"),
    "wrong dim": (gives(lambda w: frames_of(w, dim=4)), r"gave \(1, 200, 4\) for .*frames, 3\)"),
    "no batch": (gives(lambda w: frames_of(w)[0]), r"gave \(200, 3\) for waveforms \(1, 16000\)"),
    "unequal": (gives(lambda w: [frames_of(w), frames_of(w, 160)]), r"gave \(1, 100, 3\) for"),
    "no tensor": (gives(lambda w: {"states": w}), "gave dict for waveforms"),
    "nothing": (gives(lambda w: []), "gave nothing for waveforms"),
    "NaN": (gives(lambda w: frames_of(w) / 0), "hidden state 0 holds NaN or infinite values"),
    "fails": (gives(fail), r"fails on waveforms \(1, 16000\) and lengths: ValueError: no such"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_with_what_was_expected(wrong: str) -> None:
    make, message = WRONG[wrong]
    with pytest.raises(CheckpointError, match=message):
        UserEncoder(make(), "mine")


def test_frame_lengths_beyond_what_came_out() -> None:
    wrong = type("Wrong", (Plain,), {"frame_lengths": lambda self, lengths: lengths // 40})
    with pytest.raises(CheckpointError, match="frame_lengths says 400 frames, 200 came out"):
        UserEncoder(wrong(), "mine")


def test_what_turns_bad_later_is_found_at_its_call() -> None:
    class Later(Plain):
        def __call__(self, waveforms: Tensor, lengths: Tensor) -> Any:
            return super().__call__(waveforms, lengths) / (waveforms.abs().amax() > 0)

    encoder = UserEncoder(Later(), "mine")
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        encoder(torch.zeros(1, 8_000), torch.tensor([8_000]))


def test_modes() -> None:
    with pytest.raises(ConfigError, match="mode 's3prl' is not known for mine"):
        UserEncoder(Plain(), "mine", "s3prl")
    own = tiny_encoder()
    assert user_encoder(own, "mine") is own
    with pytest.raises(ConfigError, match="computes in mode 'exact', asked for is 's3prl'"):
        user_encoder(own, "mine", "s3prl")


def test_digest_covers_weights_and_source(tmp_path: Path) -> None:
    first, second = Wrapped(), Wrapped()
    assert own_digest(first) == own_digest(second) is not None
    with torch.no_grad():
        next(second.parameters()).view(-1)[0] += 1.0
    assert own_digest(first) != own_digest(second)
    assert own_digest(Plain()) is None, "no state dict: what it holds cannot be known"
    told = type("Told", (Plain,), {"digest": "v1"})
    assert own_digest(told()) == own_digest(told()) is not None
    assert own_digest(told()) != own_digest(type("Told", (Plain,), {"digest": lambda _: "v2"})())
    code = "import torch\nclass Mine(torch.nn.Linear):\n    def __init__(self):\n        "
    code += "torch.manual_seed(0)\n        super().__init__(2, 2)\n"
    digests = set()
    for number, text in enumerate((code, code, code + "# changed\n")):
        (tmp_path / f"{number}.py").write_text(text)
        digests.add(own_digest(typed_encoder(f"{tmp_path}/{number}.py:Mine")))
    assert len(digests) == 2
    assert None not in digests


def test_state_that_differs_in_configuration_only_has_another_digest() -> None:
    one, two = tiny_encoder(0), tiny_encoder(0)
    two.normalize = True
    assert own_digest(one) != own_digest(two)


def test_code_is_found_by_what_was_typed(tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_text("class Good:\n    mark = 7\nmade = Good()\nclass Bad:\n    x = 1 / 0\n")
    with pytest.raises(CheckpointError, match=r"my\.py fails: ZeroDivisionError"):
        typed_encoder(f"{file}:Good")
    file.write_text("class Good:\n    mark = 7\nmade = Good()\ndef bad():\n    return 1 / 0\n")
    assert typed_encoder(f"{file}:Good").mark == typed_encoder(f"{file}:made").mark == 7
    with pytest.raises(CheckpointError, match=r"bad\(\) fails: ZeroDivisionError"):
        typed_encoder(f"{file}:bad")
    with pytest.raises(ConfigError, match=r"unknown encoder in .*'God'; choices are: .*Good") as e:
        typed_encoder(f"{file}:God")
    assert "did you mean 'Good'" in str(e.value)
    with pytest.raises(CheckpointError, match=r"there is no file nowhere\.py"):
        typed_encoder("nowhere.py:Good")
    assert typed_encoder("tiny-hubert") is None
    assert typed_encoder("facebook/hubert-base-ls960") is None


@pytest.mark.parametrize("ask", [load_encoder, digest_of])
def test_code_is_not_run_for_a_name_that_nobody_typed(
    ask: Callable[[str], Any], tmp_path: Path
) -> None:
    file = tmp_path / "my.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(CheckpointError, match="is code, which runs only where you type its name"):
        ask(f"{file}:Mine")
    assert not (tmp_path / "ran").exists()
