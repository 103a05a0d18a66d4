#!/bin/sh
# Builds the CUDA kernels, tests and measures them, and trains, on a machine with one GPU:
#
#     benchmarks/gpu_check.sh [OUTPUT [DATASET [DATA]]]
#
# OUTPUT (runs/gpu-check) gets gpu.json and gpu.md, and a log of each part. A part that is done is
# not run again, so that the same command goes on where an earlier one ended. PYTHON names the
# Python that has PyTorch and what EmoRec needs; EmoRec itself need not be installed.
set -u
cd "$(dirname "$0")/.." || exit 1
output=${1:-runs/gpu-check} dataset=${2:-ml-1m} data=${3:-}
python=${PYTHON:-python3}
mkdir -p "$output" || exit 1
failed=""

part() { # NAME COMMAND...: runs a part unless it is done
    name=$1
    shift
    if [ -e "$output/$name.done" ]; then
        echo "$name: done before"
        return
    fi
    started=$(date +%s)
    if "$@" >"$output/$name.log" 2>&1; then
        touch "$output/$name.done"
        echo "$name: $(($(date +%s) - started)) s"
    else
        failed="$failed $name"
        echo "$name: failed, see $output/$name.log"
        tail -n 5 "$output/$name.log"
    fi
}

TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || {
    echo "PyTorch finds no CUDA device here"
    exit 1
}
MAX_JOBS=$(nproc)
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export TORCH_CUDA_ARCH_LIST MAX_JOBS PYTHONPATH

part build "$python" -m emorec doctor --build
part tests "$python" -m pytest -q -m gpu -p no:cacheprovider --junitxml "$output/tests.xml"
part attention "$python" benchmarks/gpu_bench.py attention --json "$output/attention.json"
part training "$python" benchmarks/gpu_bench.py training --json "$output/training.json" \
    --dataset "$dataset" ${data:+--data-dir "$data"}
"$python" benchmarks/gpu_bench.py table "$output" || exit 1
[ -z "$failed" ]
