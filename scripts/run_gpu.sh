#!/usr/bin/env bash
# Everything that has to be run on a GPU, in one command: tests, compute-sanitizer, benchmark, profiles. Works from any
# folder; arguments go to scripts/benchmark.py:
#     bash scripts/run_gpu.sh --only 'ops/*'
# After an interruption, with the same code, this measures the rows that are missing:
#     bash scripts/run_gpu.sh --resume
# The results: docs/performance_GPU.md, docs/performance_GPU.json. Exit codes: 0 all done, 1 something failed (what
# follows it was run all the same), 2 there is no CUDA device.
set -euo pipefail
# shellcheck source=scripts/lib/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/environment.sh"

# gpu_name: prints the first CUDA device's name as part of a file name ("nvidia_h200"); fails where torch finds none.
gpu_name() {
    "$VENV_PYTHON" - <<'PYTHON'
import re, sys, torch
if not torch.cuda.is_available():
    sys.exit(1)
print(re.sub(r"\W+", "_", torch.cuda.get_device_name().lower()))
PYTHON
}

failed=""

# attempt TITLE COMMAND...: runs it, and remembers the title if it fails.
attempt() {
    local title="$1"
    shift
    say "$title"
    "$@" || failed="$failed; $title"
}

ensure_environment requirements-dev.txt
enter_root
name="$(gpu_name)" || fail "there is no CUDA device that torch can use: this needs a GPU, its driver, and torch built for CUDA ($("$VENV_PYTHON" -c 'import torch; print(torch.__version__)') is installed)"

attempt "tests on $name (pytest -m gpu)" "$VENV_PYTHON" -m pytest -m gpu

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        # The caching allocator would hide reads and writes beyond a tensor inside its own blocks.
        attempt "compute-sanitizer $tool over the tests of the operators" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 1 \
            "$VENV_PYTHON" -m pytest -m gpu -q tests/ops
    done
else
    say "compute-sanitizer is not installed (it comes with CUDA's toolkit): memcheck and racecheck are left out"
fi

attempt "benchmark and profiles, into docs/performance_$name.md" "$VENV_PYTHON" scripts/benchmark.py all profile --all \
    --device cuda --json "docs/performance_$name.json" --markdown "docs/performance_$name.md" "$@"

if [ -n "$failed" ]; then
    printf 'error: failed:%s\n' "${failed#;}" >&2
    exit 1
fi
say "done: docs/performance_$name.md"
