#!/usr/bin/env bash
# Everything that has to be run on a GPU: compiling, tests, figures, compute-sanitizer, profiles. Works from any folder;
# arguments go to scripts/run_gpu.py, whose --help says what there is:
#     bash scripts/run_gpu.sh --stage 1 2 --output results/gpu
#
# The Python that is there is used with --here, or if its torch finds a GPU: PYTHON, else python3. Only where it does not
# is .venv made and installed into, which needs a network. Exit codes: 0 all done, 1 something failed or ran out of
# time, 2 bad input, or no GPU.
set -euo pipefail
# shellcheck source=scripts/lib/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/environment.sh"

# finds_gpu INTERPRETER: whether its torch can use a GPU.
finds_gpu() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; }

interpreter="${PYTHON:-python3}"
if [[ " $* " == *" --here "* ]] || finds_gpu "$interpreter"; then
    command -v "$interpreter" >/dev/null || fail "$interpreter names no program; name an interpreter: PYTHON=/path/to/python"
else
    # run_gpu.py's own reading of the arguments, which needs no packages: a misspelt flag installs nothing.
    reader="$VENV_PYTHON"
    [ -x "$reader" ] || reader="$(find_interpreter)" || exit 2
    "$reader" -c 'import sys; sys.path.insert(0, sys.argv[1]); from scripts.run_gpu import parse; parse(sys.argv[2:])' \
        "$ROOT" "$@" || exit 2
    ! asks_for_help "$@" || exit 0
    ensure_environment requirements-dev.txt
    interpreter="$VENV_PYTHON"
fi
exec "$interpreter" "$ROOT/scripts/run_gpu.py" "$@"
