#!/usr/bin/env bash
# The study behind docs/when-it-helps.md: the recommended form with one choice changed at a time, on
# validation data. About half an hour on two cores; interrupted, the same command goes on.
#
# Usage: xtask/when-it-helps.sh [MELTR] [SEEDS] [TASK...]
# MELTR is the program, by default target/release/meltr; a TASK is one of when-it-helps.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

meltr=${1:-target/release/meltr}
seeds=${2:-3}
tasks=("${@:3}")
[ ${#tasks[@]} -gt 0 ] || tasks=(youcook2-600-captioning clips-retrieval)

# NAME COMBINERS SETTING...
variants=(
    "references primary,sum"
    "recommended meltr"
    "history meltr combiner.meltr.batches=history"
    "no-unit meltr combiner.meltr.per_unit_step=false"
    "descent meltr combiner.meltr.through=descent"
    "raw-input meltr combiner.meltr.input=raw"
    "no-input meltr combiner.meltr.input=nothing"
    "floor meltr combiner.meltr.floor=0.3"
    "slower meltr combiner.meltr.learning_rate=3e-4"
    "faster meltr combiner.meltr.learning_rate=3e-3"
    "every-6 meltr outer.every=6"
    "published meltr_published"
    "published-warm meltr_published combiner.start=warm"
    "published-warm-held-out meltr_published combiner.start=warm outer.batches=held_out"
)

for task in "${tasks[@]}"; do
    split=valid
    case $task in youcook2-600-*) split=train_held_out ;; esac
    for variant in "${variants[@]}"; do
        read -r name combiners settings <<< "$variant"
        arguments=(--combiners "$combiners" --seeds "$seeds" --out "runs/study/$name")
        arguments+=(--ledger runs/study/ledger.jsonl)
        # Only validation data is looked at.
        arguments+=(--set "compared_split=$split" --set "train.eval_splits=[\"$split\"]")
        for setting in $settings; do
            arguments+=(--set "$setting")
        done
        echo "== $task: $name"
        "$meltr" repro "xtask/experiments/when-it-helps/$task.toml" "${arguments[@]}"
    done
done
