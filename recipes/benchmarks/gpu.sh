#!/usr/bin/env bash
# Everything that needs a GPU, in at most ten minutes: the checks of tests/gpu, then the rows of the benchmark.
#
#   recipes/benchmarks/gpu.sh recipes/benchmark_results/h100.json
#   recipes/benchmarks/gpu.sh --dry /tmp/dry.json      # the same on the CPU, at small sizes
#
# The checks may take five minutes and the rows four and a half. A part that is cut off loses only what it had not
# finished: every check and every part of the benchmark is written when it ends. Exit status 1: a check failed, two
# implementations differ, or the time was too short.
set -uo pipefail

device=cuda options=()
if [ "${1:-}" = "--dry" ]; then
    device=cpu options=(--quick --no-compile)
    shift
fi
if [ $# -ne 1 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
fi
mkdir -p "$(dirname "$1")"
output=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/../.."
checks=$output.checks.jsonl
rm -f "$checks"

# the tests share the GPU where pytest-xdist is installed: most of them wait for the processor, not for the GPU
parallel=()
python -c 'import xdist' 2>/dev/null && parallel=(-n "${PKDZOO_GPU_PROCESSES:-4}")
failed=0
limit=${PKDZOO_GPU_CHECK_SECONDS:-300}  # a run inside a test takes SIGTERM as its own stop request, hence -k
PKDZOO_GPU_DEVICE=$device PKDZOO_GPU_RESULTS=$checks timeout -k 20 "$limit" python -m pytest -q -m gpu tests/gpu -p no:cacheprovider "${parallel[@]}" --durations=10 || failed=1
for rows in ${PKDZOO_GPU_ROWS:-loss projected train step predict}; do
    add=()
    [ -f "$output" ] && add=(--update)
    timeout -k 20 150 python recipes/benchmark.py --device "$device" --rows "$rows" --checks "$checks" --output "$output" "${add[@]}" "${options[@]}" || failed=1
done
exit $failed
