# shellcheck shell=bash
# The Python environment of quickstart.sh and run_tests.sh: sourced by them, not run.
#
# PYTHON chooses the interpreter that .venv is made with; pip's own settings (PIP_...) hold as usual.

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
VENV="$ROOT/.venv"
VENV_PYTHON="$VENV/bin/python"
SUPPORTED="3.10 3.11 3.12 3.13 3.14"

say() { printf '==> %s\n' "$*"; }

# fail MESSAGE: coloured on a terminal, as utils/terminal.py decides it.
fail() {
    local mark="error:"
    if [ -z "${NO_COLOR:-}" ] && { [ "${FORCE_COLOR:-0}" != 0 ] || { [ -t 2 ] && [ "${TERM:-}" != dumb ]; }; }; then
        mark=$'\e[1;31merror:\e[0m'
    fi
    printf '%s %s\n' "$mark" "$*" >&2
    exit 2
}

# asks_for_help ARGUMENTS: whether -h or --help is among them.
asks_for_help() { [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; }

# show_help: prints what the script that runs says about itself in its first lines.
show_help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# enter_root: goes to the repository root; a relative FOCALSR_SHARED keeps its meaning.
enter_root() {
    if [ -d "${FOCALSR_SHARED:-}" ]; then
        FOCALSR_SHARED="$(CDPATH='' cd -- "$FOCALSR_SHARED" && pwd)"
        export FOCALSR_SHARED
    fi
    cd -- "$ROOT"
}

# python_version INTERPRETER: prints "3.11"; fails where it does not run.
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

is_supported() { [[ " $SUPPORTED " == *" $1 "* ]]; }

# find_interpreter: prints the interpreter for a new .venv: PYTHON if set, else the first one that fits.
find_interpreter() {
    local candidate version tried=""
    if [ -n "${PYTHON:-}" ]; then
        version="$(python_version "$PYTHON")" || fail "PYTHON=$PYTHON does not run; give the path or name of a Python interpreter"
        is_supported "$version" || fail "PYTHON=$PYTHON is Python $version; FocalSR runs on $SUPPORTED"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python python3.13 python3.12 python3.11 python3.10 python3.14; do
        version="$(python_version "$candidate")" || continue
        if is_supported "$version"; then
            printf '%s\n' "$candidate"
            return
        fi
        tried="$tried $candidate is $version,"
    done
    fail "no Python that FocalSR runs on ($SUPPORTED):${tried:- none found,} install one, or name it: PYTHON=/path/to/python bash $0"
}

# make_venv: makes .venv, or says what is wrong with the one that is there.
make_venv() {
    local interpreter version
    if [ -e "$VENV" ]; then
        version="$(python_version "$VENV_PYTHON")" \
            || fail "$VENV does not hold a Python that runs (moved, or its interpreter removed?): delete that folder and run this again"
        is_supported "$version" || fail "$VENV holds Python $version; FocalSR runs on $SUPPORTED: delete that folder and run this again"
        if [ -n "${PYTHON:-}" ] && [ "$(python_version "$PYTHON")" != "$version" ]; then
            fail "$VENV holds Python $version, PYTHON=$PYTHON is another: delete that folder, or unset PYTHON"
        fi
        say "using .venv (Python $version)"
        return
    fi
    interpreter="$(find_interpreter)" || exit 2
    say "making .venv with $interpreter (Python $(python_version "$interpreter"))"
    if ! "$interpreter" -m venv "$VENV"; then
        rm -rf -- "$VENV" # half made, and by the line above
        fail "$interpreter cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
    fi
}

# environment_key: changes whenever what has to be installed changes.
environment_key() {
    "$VENV_PYTHON" - "$ROOT"/requirements{,-dev,-export,-analysis}.txt "$ROOT"/constraints.txt <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.version.encode())
for name in sys.argv[1:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

# has_other_opencv: whether cv2 comes from another of OpenCV's four distributions than the one that we ask for.
has_other_opencv() {
    "$VENV_PYTHON" - <<'PYTHON'
import importlib.metadata as metadata, sys
names = {(entry.metadata["Name"] or "").lower().replace("_", "-") for entry in metadata.distributions()}
sys.exit(not names & {"opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"})
PYTHON
}

# is_installed FILE KEY: whether FILE, or the development requirements, which include it, were installed under KEY.
is_installed() {
    local file
    for file in "$1" requirements-dev.txt; do
        [ "$(cat -- "$VENV/.installed-${file%.txt}" 2>/dev/null)" != "$2" ] || return 0
    done
    return 1
}

# ensure_environment FILE: .venv holds what the requirements file FILE asks for. Nothing is done when that is so already.
ensure_environment() {
    local requirements="$1" folder="$ROOT" key
    make_venv
    key="$(environment_key)"
    if is_installed "$requirements" "$key"; then
        return
    fi
    "$VENV_PYTHON" -m pip --version >/dev/null 2>&1 || "$VENV_PYTHON" -m ensurepip >/dev/null \
        || fail "$VENV has no pip: delete that folder and run this again"
    if has_other_opencv; then
        # They own the same folder cv2, so a second one would overwrite the first.
        say "keeping the OpenCV that .venv has"
        folder="$(mktemp -d)"
        sed '/^opencv-python-headless/d' "$ROOT/requirements.txt" >"$folder/requirements.txt"
        cp -- "$ROOT"/requirements-{dev,export,analysis}.txt "$folder/"
    fi
    say "installing $requirements into .venv (the first time this takes minutes)"
    "$VENV_PYTHON" -m pip install --disable-pip-version-check --no-compile -r "$folder/$requirements" \
        -c "$ROOT/constraints.txt" \
        || fail "pip could not install $requirements; its message is above. Run this again to go on where it stopped"
    # On all cores; pip has one translate the 11,000 files. What is left is translated when it is imported.
    "$VENV_PYTHON" -m compileall -q -j 0 "$VENV" >/dev/null 2>&1 || true
    [ "$folder" = "$ROOT" ] || rm -rf -- "$folder"
    printf '%s\n' "$key" >"$VENV/.installed-${requirements%.txt}"
}
