#!/usr/bin/env bash
# From a fresh clone to a trained network and its scores, in minutes and without a GPU. Works from any folder.
#     bash scripts/quickstart.sh
#     bash scripts/quickstart.sh --force_yml train:total_iter=200   # options of the training, as train.py takes them
#     bash scripts/quickstart.sh --auto_resume                      # the training goes on where it was stopped
# With FOCALSR_SHARED=FOLDER, or a folder ../shared, that holds data/Set5/x4, the network is evaluated on Set5 too.
set -euo pipefail
# shellcheck source=scripts/lib/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/environment.sh"

yaml_quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"; }

if asks_for_help "$@"; then
    show_help
    exit
fi
for argument in "$@"; do
    case "$argument" in
        name=* | --force_yml=name=*) fail "$argument: the quick start evaluates demo_plainusr_x4; leave the name out" ;;
        --force_yml | --force_yml=* | --auto_resume) ;;
        -*) fail "unknown flag $argument; there are --help, --auto_resume and --force_yml A:B=VALUE" ;;
        *) [[ " $* " == *" --force_yml"* ]] || fail "unknown argument $argument; there are --help, --auto_resume and --force_yml A:B=VALUE" ;;
    esac
done

ensure_environment requirements.txt
enter_root
results="results/demo_plainusr_x4"

say "writing the demo photographs to datasets/demo"
"$VENV_PYTHON" scripts/prepare_demo_data.py

say "training PlainUSR x4 on them"
"$VENV_PYTHON" train.py -opt options/demo/train_plainusr_x4.yml "$@"

set5="${FOCALSR_SHARED:-$ROOT/../shared}/data/Set5/x4"
set --
if [ -d "$set5/HR" ] && [ -d "$set5/LR" ]; then
    say "evaluating on the held-out photographs and on Set5"
    set -- --force_yml "datasets:test_set5={name: Set5, type: PairedImageDataset, io_backend: {type: disk},
        dataroot_gt: $(yaml_quoted "$set5/HR"), dataroot_lq: $(yaml_quoted "$set5/LR")}"
else
    say "evaluating on the held-out photographs"
fi
"$VENV_PYTHON" test.py -opt options/demo/test_plainusr_x4.yml --per_image "$@"

say "drawing LR, bicubic, ours and HR side by side"
"$VENV_PYTHON" scripts/visualise.py comparison --sr "$results/visualization/demo" --gt datasets/demo/val/HR \
    --name PlainUSR -o "$results/comparison"

say "done: the table is above; scores, images and comparison pictures are in $results"
say "training curves: .venv/bin/python -m tensorboard.main --logdir tb_logger"
