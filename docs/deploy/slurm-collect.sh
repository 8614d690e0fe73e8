#!/usr/bin/env bash
# The comparison of a sweep, once an array has made its runs:
#
#   array=$(sbatch --parsable --array=0-15 slurm-array.sh)
#   sbatch --dependency=afterok:"$array" slurm-collect.sh
#SBATCH --job-name=meltr-collect
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.out
set -euo pipefail

# As in slurm-array.sh.
experiment=${MELTR_EXPERIMENT:-xtask/experiments/univl/emoji-clips-retrieval.toml}
out=${MELTR_OUT:-runs}
meltr=${MELTR:-target/release/meltr}
settings=(--combiners all --seeds 5 --set train.checkpoint_every=20)

cd "${MELTR_CHECKOUT:-$SLURM_SUBMIT_DIR}"
"$meltr" repro "$experiment" "${settings[@]}" --out "$out" --collect
