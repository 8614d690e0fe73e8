#!/usr/bin/env bash
# A sweep of `meltr repro` as a Slurm array: each task makes its share of the runs. README.md beside
# this file says how the parts belong together.
#
#   sbatch --array=0-15 slurm-array.sh
#
# The same line once more goes on after a time limit or a failure.
#SBATCH --job-name=meltr
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%A_%a.out
# A minute before the limit the runs are told to save.
#SBATCH --signal=TERM@60
set -euo pipefail

# All tasks, and slurm-collect.sh, need the same settings and a folder that all of them see.
experiment=${MELTR_EXPERIMENT:-xtask/experiments/univl/emoji-clips-retrieval.toml}
out=${MELTR_OUT:-runs}
meltr=${MELTR:-target/release/meltr}
settings=(--combiners all --seeds 5 --set train.checkpoint_every=20)

cd "${MELTR_CHECKOUT:-$SLURM_SUBMIT_DIR}"

# An array may start at another number; shares count from 0.
index=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))

# One run at a time has all cores of the task.
srun "$meltr" repro "$experiment" "${settings[@]}" --out "$out" --jobs 1 \
    --shard "$index/$SLURM_ARRAY_TASK_COUNT"
