#!/usr/bin/env bash
# All checks: lint, format, types, import rules, tests. Works from any folder; arguments go to pytest:
#     bash scripts/run_tests.sh -k schedule
# FOCALSR_SHARED=FOLDER adds the tests that compare with the published networks' data.
set -euo pipefail
# shellcheck source=scripts/lib/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/environment.sh"

if asks_for_help "$@"; then
    show_help
    exit
fi
ensure_environment requirements-dev.txt
enter_root
# Tests start dozens of interpreters: each would translate this project's sources again, and pytest the tests.
unset PYTHONDONTWRITEBYTECODE
# A flag that pytest does not know is an error now, not after minutes of other checks.
"$VENV_PYTHON" -m pytest --markers "$@" >/dev/null || exit 2

say "lint (ruff check)"
"$VENV_PYTHON" -m ruff check .
say "format (ruff format --check)"
"$VENV_PYTHON" -m ruff format --check .
# Types take one core for half a minute where nothing is cached: the tests have the others meanwhile.
types="$(mktemp)"
"$VENV_PYTHON" -m mypy >"$types" 2>&1 &
mypy=$!
trap 'kill "$mypy" 2>/dev/null || true; rm -f -- "$types"' EXIT
say "import rules (import-linter)"
"$VENV_PYTHON" -c 'from importlinter.cli import lint_imports_command as check; check()' --no-logo
say "tests (pytest)"
# Processes with one thread each take half the CPU time of one process with a thread per core; one more than there are
# cores, at most four, since tests that wait for others leave theirs idle.
processes="$("$VENV_PYTHON" -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')"
code=0
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$VENV_PYTHON" -m pytest -n "$processes" --dist worksteal "$@" || code=$?
say "types (mypy)"
wait "$mypy" || code=$?
cat -- "$types"
exit "$code"
