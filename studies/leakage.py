"""How much duration and F0 alone say about speaker and style in the embedded corpus.

A random forest on duration, mean, spread and range of F0 (autocorrelation, 60 to 400 Hz):
python studies/leakage.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from lhotse import CutSet
from sklearn.ensemble import RandomForestClassifier

from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of
from speechft.data.manifest import load_waveform

FRAME, HOP, RATE = 640, 320, 16_000
COLUMNS = {"duration": [0], "F0": [1, 2, 3], "duration and F0": [0, 1, 2, 3]}


def pitch(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return F0 in Hz of the voiced frames (normalised autocorrelation above 0.5)."""
    count = 1 + (len(waveform) - FRAME) // HOP
    frames = np.stack([waveform[i * HOP : i * HOP + FRAME] for i in range(count)])
    frames = frames - frames.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(frames, 2 * FRAME)) ** 2
    correlation = np.fft.irfft(spectrum)[:, :FRAME]
    window = np.arange(FRAME, 0, -1) / FRAME
    correlation = correlation / (correlation[:, :1] + 1e-9) / window
    low, high = RATE // 400, RATE // 60
    lags = correlation[:, low:high].argmax(1) + low
    voiced = correlation[np.arange(count), lags] > 0.5
    return RATE / lags[voiced]


def features(cuts: CutSet) -> npt.NDArray[np.float64]:
    rows = []
    for cut in cuts:
        f0 = pitch(load_waveform(cut))
        f0 = f0 if len(f0) else np.zeros(1)
        low, high = np.quantile(f0, [0.1, 0.9])
        rows.append([cut.duration, f0.mean(), f0.std(), high - low])
    return np.array(rows)


def main() -> None:
    corpus = find_corpus("synthetic", Path("runs/leakage"))
    for task, label in (("sid", "speaker"), ("style", "style")):
        train, _, test = (corpus.split(name) for name in corpus.task_splits(task))
        known = [label_of(cut, label) for cut in train]
        wanted = np.array([label_of(cut, label) for cut in test])
        seen, new = features(train), features(test)
        chance = 100 / len(set(known))
        for name, columns in COLUMNS.items():
            forest = RandomForestClassifier(500, random_state=0).fit(seen[:, columns], known)
            hits = 100 * np.mean(forest.predict(new[:, columns]) == wanted)
            print(f"{task}: {name} {hits:.1f} % right, chance {chance:.1f} %, n {len(wanted)}")


if __name__ == "__main__":
    main()
