#!/usr/bin/env bash
# Everything that docs/gpu-measurements.md lists, on one NVIDIA GPU, within about fifteen minutes.
# Needs a `meltr` that was built with `--features tch` against the PyTorch of PYTHON, or with
# `--features tch,vulkan` for the rows of Vulkan too, and a checkout (the scripts of the PyTorch
# side are read from xtask/peers).
#
#   xtask/gpu-measurements.sh MELTR PYTHON OUT [REFERENCE_DIRECTORY...]
#   ONLY='reference|vulkan' xtask/gpu-measurements.sh ...     only what has such a name
#
# Every measurement writes OUT/NAME.txt (what it printed), and a line to OUT/summary.tsv: name,
# exit status, seconds, and the largest memory of the GPU in use meanwhile, in MiB: of all
# processes, of `meltr`, of PyTorch (a dash where the driver does not tell). A measurement that
# fails is listed with its status, and the next one starts.
set -uo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,15p' "$0" >&2
    exit 2
fi
meltr=$1 python=$2 out=$3
shift 3
only=${ONLY:-.}
export LD_LIBRARY_PATH="$("$python" -c 'import os, torch
print(os.path.join(os.path.dirname(torch.__file__), "lib"))')${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
mkdir -p "$out"
[ -s "$out/summary.tsv" ] ||
    printf 'name\tstatus\tseconds\tgpu_mib\tmeltr_mib\tpython_mib\n' > "$out/summary.tsv"

# sample FILE QUERY: appends what the driver says to FILE, five times a second, until it is killed.
sample() {
    exec nvidia-smi "$2" --format=csv,noheader,nounits -lms 200 > "$1" 2> /dev/null
}

# largest_of FILE PATTERN: the largest last column of the lines of FILE that match, or a dash.
largest_of() {
    awk -F ', *' -v pattern="$2" \
        '$0 ~ pattern && $NF ~ /^[0-9]+$/ { if (!found || $NF > most) most = $NF; found = 1 }
        END { print found ? most : "-" }' "$1"
}

# measure NAME LIMIT_SECONDS COMMAND...
measure() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    [[ $name =~ $only ]] || return 0
    sample "$out/.all" --query-gpu=memory.used &
    local all=$!
    sample "$out/.each" --query-compute-apps=name,used_memory &
    local each=$!
    timeout "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
    kill "$all" "$each" 2> /dev/null
    wait "$all" "$each" 2> /dev/null
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" \
        "$(largest_of "$out/.all" .)" "$(largest_of "$out/.each" meltr)" \
        "$(largest_of "$out/.each" python)" | tee -a "$out/summary.tsv"
    rm -f "$out/.all" "$out/.each"
}

measure machine 30 bash -c "nvidia-smi; $python -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'; $meltr --version; $meltr devices; nproc"

# Parity with the tensors of the published code.
if [ "$#" -gt 0 ]; then
    measure reference-f32 90 "$meltr" reference "$@" --device tch:0
fi

# The outer step of the published network beside the released algorithm on the same GPU.
measure meta-step-published 200 "$meltr" bench meta-step --device tch:0 --python "$python" \
    --published --repeats 4

# A step of the published networks, beside PyTorch on the same GPU.
step() { # PRECISION FLAGS...
    local precision=$1
    shift
    local step=("$meltr" bench train-step --device tch:0 --python "$python" --published --repeats 10)
    measure "step-univl-$precision" 90 "${step[@]}" --backbone univl --batch 32 "$@"
    measure "step-violet-$precision" 60 "${step[@]}" --backbone violet --batch 4 "$@"
    measure "step-allinone-$precision" 60 "${step[@]}" --backbone allinone --batch 32 "$@"
}
step f32
step bf16 --bf16

# What learning the combination costs.
measure meta-step-f32 90 "$meltr" bench meta-step --device tch:0 --repeats 9

# The same on Vulkan.
if "$meltr" devices | grep -q '^yes *vulkan'; then
    for directory in "$@"; do
        measure "vulkan-reference-$(basename "$directory")" 90 \
            "$meltr" reference "$directory" --device vulkan
    done
    vulkan_step=("$meltr" bench train-step --device vulkan --published --repeats 4)
    measure vulkan-step-univl 240 "${vulkan_step[@]}" --backbone univl --batch 32
    measure vulkan-step-violet 240 "${vulkan_step[@]}" --backbone violet --batch 4
    measure vulkan-step-allinone 240 "${vulkan_step[@]}" --backbone allinone --batch 32
    measure vulkan-meta-step 240 "$meltr" bench meta-step --device vulkan --repeats 9
fi

# Whether the same seed gives the same bits.
run=(fine-tune xtask/experiments/univl/emoji-clips-retrieval.toml --device tch:0 --seed 1)
for index in 1 2; do
    rm -rf "$out/same-$index"
    measure "same-seed-$index" 60 "$meltr" "${run[@]}" --set train.iterations=40 --out "$out/same-$index"
done
measure same-bits 30 bash -c "cd '$out' && find same-1 same-2 -name '*.safetensors' | sort | xargs sha256sum"

# The same with TF32 in the products of f32.
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1
step tf32
measure meta-step-tf32 90 "$meltr" bench meta-step --device tch:0 --repeats 9
unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE

measure captions-search 60 "$meltr" bench captions-search --device tch:0
measure repro 200 "$meltr" repro xtask/experiments/univl/emoji-clips-retrieval.toml --device tch:0 --seeds 3 --jobs 3 --out "$out/repro"
rm -rf "$out"/same-? "$out/repro"
cat "$out/summary.tsv"
