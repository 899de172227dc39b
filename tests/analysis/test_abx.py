"""ABX against fastabx, a slow alignment, one-hot phones and noise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from oracle_data import oracle_json
from speechft.analysis import abx
from speechft.analysis.abx import Cell, Mode, Token, abx_error, choose_cells, distances

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("mode", abx.MODES)
def test_errors_are_those_of_fastabx(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abx, "MOST_X_SPEAKERS", 100)
    golden = oracle_json("abx/abx.json")
    tokens = [Token(phone, (a, b), speaker) for phone, a, b, speaker in golden["tokens"]]
    features = np.array(golden["features"], np.float32)[:, None]
    (found,) = abx_error(features, golden["spans"], choose_cells(tokens, mode))
    assert found.value == pytest.approx(golden[mode], abs=1e-4)


def corpus(each: int = 3) -> list[Token]:
    contexts = [("P", "T"), ("K", "S")]
    return [
        Token(phone, context, speaker)
        for phone, context, speaker in product("AEIO", contexts, "xyz")
        for _ in range(each)
    ]


@pytest.mark.parametrize("mode", abx.MODES)
def test_one_hot_phones_are_perfect_and_noise_is_chance(mode: Mode) -> None:
    tokens = corpus()
    lengths = RNG.integers(2, 7, size=len(tokens))
    ends = np.cumsum([0, *lengths])
    spans = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    phones = np.repeat(["AEIO".index(token.phone) for token in tokens], lengths)
    noise = RNG.normal(size=(len(phones), 4))
    frames = np.stack([np.eye(4)[phones], noise, np.ones_like(noise)], 1)
    one_hot, chance, equal = abx_error(frames, spans, choose_cells(tokens, mode))
    assert one_hot.value == 0
    assert chance.value == pytest.approx(50, abs=6)
    low, high = chance.interval() or (0.0, 0.0)
    assert low <= 50 <= high
    assert equal.value == 50, "ties are one half"


def test_alignment_is_the_cheapest_path_over_its_length() -> None:
    frames = RNG.normal(size=(20, 2, 3)).astype(np.float32)
    spans = [(0, 4), (4, 9), (9, 10), (10, 20)]
    pairs = [(0, 1), (0, 2), (1, 3), (2, 2), (3, 0)]
    found = distances(frames, spans, pairs)
    for layer in range(2):
        for number, (one, other) in enumerate(pairs):
            a, b = (frames[slice(*spans[n]), layer] for n in (one, other))
            assert found[layer, number] == pytest.approx(_aligned(a, b), abs=1e-3)
    np.testing.assert_allclose(found[:, 0], distances(frames, spans, [(1, 0)])[:, 0], atol=1e-6)


def _aligned(a: np.ndarray, b: np.ndarray) -> float:
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (a, b)]
    cost = np.arccos((unit[0] @ unit[1].T).clip(-1, 1)) / np.pi
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i, j in product(range(len(a)), range(len(b))):
        before = [best[p] for p in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if p in best]
        total, steps = min(before, key=lambda item: item[0]) if before else (0.0, 0)
        best[i, j] = total + cost[i, j], steps + 1
    total, steps = best[len(a) - 1, len(b) - 1]
    return total / steps


def test_without_a_speaker_is_the_error_of_the_others() -> None:
    tokens = corpus()
    frames = RNG.normal(size=(len(tokens), 1, 4))
    spans = [(n, n + 1) for n in range(len(tokens))]
    (whole,) = abx_error(frames, spans, choose_cells(tokens, "across"))
    kept = [n for n, token in enumerate(tokens) if token.speaker != "y"]
    (left,) = abx_error(
        frames[kept],
        [(n, n + 1) for n in range(len(kept))],
        choose_cells([tokens[n] for n in kept], "across"),
    )
    assert whole.without["y"] == pytest.approx(left.value)


def test_caps_are_drawn_by_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = corpus(each=30)
    for mode in abx.MODES:
        cells = choose_cells(tokens, mode, seed=1)
        assert cells == choose_cells(tokens, mode, seed=1)
        assert cells != choose_cells(tokens, mode, seed=2)
        assert all(len(part) <= 10 for cell in cells for part in (cell.a, cell.b, cell.x))
        assert sum(cell.pairs for cell in cells) <= abx.MOST_PAIRS
    monkeypatch.setattr(abx, "MOST_PAIRS", 1)
    assert len(choose_cells(tokens, "within")) == 1
    assert choose_cells([], "across") == []
    assert choose_cells(corpus(each=1), "within") == [], "X needs a second token"
    assert abx_error(np.zeros((0, 2, 3)), [], [])[1].value is None


def test_cells_are_drawn_without_keeping_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abx, "MOST_PAIRS", 60)
    cells = [
        Cell(("a", "b"), (str(n), "c"), ("s", "s"), (1, 2), (3,), tuple(range(1 + n % 3)))
        for n in range(500)
    ]
    rng = np.random.default_rng([7, 1])
    expected, pairs = [], 0
    for number in np.argsort([rng.random() for _ in cells]):  # all of them, in their order
        pairs += cells[number].pairs
        if pairs > 60:
            break
        expected.append(int(number))
    alive = []
    original = abx.heapq.heappush
    monkeypatch.setattr(
        abx.heapq, "heappush", lambda heap, item: (original(heap, item), alive.append(len(heap)))
    )
    assert abx._drawn(iter(cells), 7) == [cells[n] for n in sorted(expected)]
    assert max(alive) < 60
    assert abx._drawn(iter(cells[:5]), 7) == cells[:5], "under the cap all of them"
