#!/usr/bin/env bash
# Everything that docs/gpu-measurements.md lists, on one NVIDIA GPU through LibTorch, within about
# ten minutes. Needs a `meltr` that was built with `--features tch` against the PyTorch of PYTHON,
# and a checkout (the scripts of the PyTorch side are read from xtask/peers).
#
#   xtask/gpu-measurements.sh MELTR PYTHON OUT [REFERENCE_DIRECTORY...]
#
# Every measurement writes OUT/NAME.txt (what it printed), and a line to OUT/summary.tsv: name,
# exit status, seconds, and the largest memory of the GPU in use meanwhile, in MiB. A measurement
# that fails is listed with its status, and the next one starts.
set -uo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,12p' "$0" >&2
    exit 2
fi
meltr=$1 python=$2 out=$3
shift 3
device=tch:0
export LD_LIBRARY_PATH="$("$python" -c 'import os, torch
print(os.path.join(os.path.dirname(torch.__file__), "lib"))')${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
mkdir -p "$out"
printf 'name\tstatus\tseconds\tgpu_mib\n' > "$out/summary.tsv"

# measure NAME LIMIT_SECONDS COMMAND...
measure() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 \
        > "$out/.memory" 2> /dev/null &
    local sampler=$!
    timeout "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
    kill "$sampler" 2> /dev/null
    wait "$sampler" 2> /dev/null
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" \
        "$(sort -n "$out/.memory" | tail -n 1)" | tee -a "$out/summary.tsv"
    rm -f "$out/.memory"
}

measure machine 30 bash -c "nvidia-smi; $python -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'; $meltr --version; $meltr devices; nproc"

# Parity with the tensors of the published code.
if [ "$#" -gt 0 ]; then
    measure reference-f32 90 "$meltr" reference "$@" --device "$device"
fi

# A step of the published networks, beside PyTorch on the same GPU.
step() { # PRECISION FLAGS...
    local precision=$1
    shift
    local step=("$meltr" bench train-step --device "$device" --python "$python" --published --repeats 10)
    measure "step-univl-$precision" 90 "${step[@]}" --backbone univl --batch 32 "$@"
    measure "step-violet-$precision" 60 "${step[@]}" --backbone violet --batch 8 "$@"
    measure "step-allinone-$precision" 60 "${step[@]}" --backbone allinone --batch 32 "$@"
}
step f32
step bf16 --bf16

# What learning the combination costs.
measure meta-step-f32 90 "$meltr" bench meta-step --device "$device" --repeats 9

# Whether the same seed gives the same bits.
run=(fine-tune xtask/experiments/univl/emoji-clips-retrieval.toml --device "$device" --seed 1)
for index in 1 2; do
    rm -rf "$out/same-$index"
    measure "same-seed-$index" 60 "$meltr" "${run[@]}" --set train.iterations=40 --out "$out/same-$index"
done
measure same-bits 30 bash -c "cd '$out' && find same-1 same-2 -name '*.safetensors' | sort | xargs sha256sum"

# The same with TF32 in the products of f32.
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1
step tf32
if [ "$#" -gt 0 ]; then
    measure reference-tf32 90 "$meltr" reference "$@" --device "$device"
fi
measure meta-step-tf32 90 "$meltr" bench meta-step --device "$device" --repeats 9
unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE

measure captions-search 60 "$meltr" bench captions-search --device "$device"
measure repro 150 "$meltr" repro xtask/experiments/univl/emoji-clips-retrieval.toml --device "$device" --seeds 3 --jobs 3 --out "$out/repro"
rm -rf "$out"/same-? "$out/repro"
cat "$out/summary.tsv"
