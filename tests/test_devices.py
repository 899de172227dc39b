"""Devices: auto precision follows the hardware, an unusable device is one clear error."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from speechft.devices import autocast, pick_device, resolve_precision, returning_memory, use_device
from speechft.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == CUDA


def test_each_of_several_processes_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen[0])
    seen = [2]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == torch.device("cuda:1")
    assert pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cpu") == CPU
    seen[0] = 1  # a scheduler shows each process its own alone
    assert pick_device("auto") == torch.device("cuda:0")
    for odd in ("", "x", "-1"):
        monkeypatch.setenv("LOCAL_RANK", odd)
        assert pick_device("auto") == CUDA


def test_a_named_device_is_taken() -> None:
    assert pick_device("cpu") == CPU


def test_a_device_holds_for_everything_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with use_device("auto"):
        assert pick_device() == CUDA
    with use_device("cpu"):
        assert pick_device() == CPU
        assert ThreadPoolExecutor(1).submit(pick_device).result() == CPU
        with use_device("auto"):
            assert pick_device() == CPU
        with use_device("meta"):
            assert pick_device() == torch.device("meta")
            assert pick_device("cpu") == CPU, "what is named is taken"
        assert pick_device() == CPU
    with pytest.raises(RuntimeError, match="stop"), use_device("cpu"):
        raise RuntimeError("stop")
    assert pick_device() == CUDA
    with pytest.raises(ConfigError, match="'banana' cannot be used"), use_device("banana"):
        pass
    assert pick_device() == CUDA


def test_a_gpu_by_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current = []

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen)
        yield
        current.append(None)

    monkeypatch.setattr("speechft.devices.pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device", device)
    with use_device("cuda:1"):
        assert current == [torch.device("cuda:1")]
    with use_device("cuda"):
        pass
    assert current == [torch.device("cuda:1"), None]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with use_device("cuda"):
        pass
    with pytest.raises(ConfigError, match="'cuda:1' is one for several") as caught:
        use_device("cuda:1").__enter__()
    assert "--device cuda" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["banana", "cuda:x", "", "cuda:99", "privateuseone"])
def test_unusable_device(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        pick_device(name)
    assert repr(name) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "fp32"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
    ],
)
def test_auto_precision_on_a_cpu(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("auto", torch.device("mps")) == "fp32", "a CPU's gift is not a GPU's"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_a_gpu(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", CUDA) == expected
    assert asked == [False], "emulated bf16 does not count"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_given_precision_is_kept(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert resolve_precision(precision, CPU) == precision  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_multiplies_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_that_batches_leave_free_goes_back() -> None:
    def held() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("RssAnon:")[2].split()[0]) // 1024

    def batches() -> Iterator[int]:
        for number in range(5):
            # blocks that are too small for a mapping of their own; the last one stays, behind them:
            # anything smaller might find a hole before them, and then the heap shrinks by itself
            blocks = [torch.ones(16_000) for _ in range(1600)]
            pins.append(blocks[-1])
            del blocks
            yield number

    pins: list[torch.Tensor] = []
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        pytest.skip("this C library returns memory by itself")
    trim(0)
    before = held()
    assert list(returning_memory(batches(), torch.device("meta"))) == [0, 1, 2, 3, 4]
    kept = held() - before
    assert list(returning_memory(batches(), CPU)) == [0, 1, 2, 3, 4]
    assert kept > 20, "the C library holds what is free: otherwise this test shows nothing"
    assert held() - before < kept / 2
