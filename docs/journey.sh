#!/usr/bin/env bash
# The whole journey: from a table of your own recordings to a model that others can use.
#
#   bash docs/journey.sh my.csv new-recordings/ runs/journey
#
# my.csv has the columns path, split (train, dev, test), and speaker or a label. Give the same
# command again after a stop: each step goes on where it was. What follows the folder goes to run,
# such as --set merging.alpha=0.4.
set -euo pipefail

TABLE=${1:?give the table of your recordings}
NEW=${2:?give recordings that the model has not heard, a file or a folder}
OUT=${3:-runs/journey}

TASK=${TASK:-sid}             # what to learn: sid (the speaker), or label:COLUMN for any other column
STEPS=${STEPS:-100}           # updates of fine-tuning
LIMIT=${LIMIT:-2000}          # recordings of each split that probes are trained and tested on
REPO=${REPO:-me/journey}      # where it would be published
LICENCE=${LICENCE:-cc-by-4.0} # what the terms of your recordings allow

# 1. What is in the table, and what cannot be used? Damaged recordings are named and left out: the
#    exit code is then 1, and the rest is prepared.
speechft inspect "$TABLE"
speechft prepare generic "$TABLE" --out "$OUT/corpus" || [ -f "$OUT/corpus/corpus.json" ]

# 2. Fine-tune stably, merge with the pre-trained encoder, probe all of them frozen, report.
speechft run demo --corpus "$OUT/corpus" --out "$OUT/run" \
    --set "finetuning.task=$TASK" --set "finetuning.steps=$STEPS" \
    --set "evaluation.tasks=[$TASK]" --set "evaluation.limit=$LIMIT" \
    --set "merging.curve_tasks=[$TASK]" "${@:4}"

# 3. The report again, from what lies in the folder: after a change of names, or for several runs.
speechft report "$OUT/run"

# 4. The merged encoder with its head as a model of transformers, compared before it is written.
speechft export "$OUT/run" "$OUT/exported" --task "$TASK"

# 5. Without speechft: whoever has transformers runs it.
python - "$OUT/exported" "$NEW" <<'PYTHON'
import sys
from pathlib import Path

import soundfile
from scipy.signal import resample_poly
from transformers import pipeline

folder, new = sys.argv[1:]
run = pipeline("audio-classification", model=folder)
files = sorted(Path(new).glob("*.wav")) if Path(new).is_dir() else [Path(new)]
for file in files:
    array, rate = soundfile.read(file, dtype="float32", always_2d=True)
    [best, *_] = run(resample_poly(array.mean(1), 16_000, rate))
    print(file.name, best["label"], f"{best['score']:.3f}")
PYTHON

# 6. What would be uploaded, with its card and its figures. Without --dry-run it is.
speechft publish "$OUT/exported" --repo-id "$REPO" --license "$LICENCE" --results "$OUT/run" --dry-run

# 7. The head on new recordings: a line each.
speechft predict "$OUT/run" "$NEW" --task "$TASK" --out "$OUT/predictions.csv"
cat "$OUT/predictions.csv"
