#!/usr/bin/env bash
# One run of `meltr fine-tune` that several processes share over MPI, under Slurm. README.md beside
# this file says how.
#
#   sbatch --ntasks=4 slurm-mpi.sh
#
# The same line once more, with as many tasks or others, goes on after a time limit or a failure.
#SBATCH --job-name=meltr-mpi
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
# Two minutes before the limit the run is told to save.
#SBATCH --signal=TERM@120
set -euo pipefail

experiment=${MELTR_EXPERIMENT:-xtask/experiments/univl/emoji-clips-retrieval.toml}
# A folder that all tasks see.
run=${MELTR_RUN:-runs/mpi}
# Built with `cargo build --release --package meltr-cli --features mpi`.
meltr=${MELTR:-target/release/meltr}
# A global batch is so many batches of `task.batch_size`; a multiple of the number of tasks.
batches=${MELTR_BATCHES:-4}

cd "${MELTR_CHECKOUT:-$SLURM_SUBMIT_DIR}"

if [ -e "$run" ]; then
    arguments=(--resume "$run")
else
    arguments=("$experiment" --out "$run" --set "train.accumulate=$batches"
        --set train.checkpoint_every=20)
fi

export RAYON_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" "$meltr" fine-tune "${arguments[@]}"
