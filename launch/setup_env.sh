#!/usr/bin/env bash
# Makes the Python environment of the project in .venv. Safe to interrupt and to run again.
#
#   launch/setup_env.sh             (`make setup`, and every other make target, call it when it is needed)
#   PYTHON=python3.12               the Python to start from, 3.11 or later; default python3
#   TORCH=auto|cpu|cuda             which build of torch; auto keeps the one that .venv has, and in a new .venv takes CUDA
#                                   where an NVIDIA GPU answers, else the CPU build. TORCH=cuda is for a login node
#                                   without a GPU whose .venv is used on nodes with one.
#
# One line is printed for each stage; what the installers say goes to .venv/setup.log, and its end is shown on failure.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-auto}
TORCH_VERSION=2.13.0
LOG=.venv/setup.log
UNFINISHED=.venv/unfinished # exists while an installer runs: what a killed one leaves cannot be trusted
BUILD=.venv/torch-build     # cpu or cuda: the build of torch in .venv

fail() {
    echo "error: $1" >&2
    exit 1
}

# stage MESSAGE COMMAND...: run an installer with its words going to the log.
stage() {
    local started=$SECONDS
    printf '  %-62s' "$1"
    shift
    touch "$UNFINISHED"
    if "$@" >>"$LOG" 2>&1; then
        rm "$UNFINISHED"
        echo "$((SECONDS - started)) s"
    else
        rm "$UNFINISHED"
        printf 'failed\n\n' && tail -n 25 "$LOG" >&2
        fail "the step above failed; the whole log is in $LOG. Mend the cause and run the same command again"
    fi
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check "$@"
}

# A CPU build of torch: from the configured package index if that has one, else through uv, which knows where they are.
install_cpu_torch() {
    install "torch==$TORCH_VERSION+cpu" && return
    echo "--- the package index has no torch $TORCH_VERSION+cpu; trying uv ---"
    install uv && .venv/bin/uv pip install --python .venv/bin/python --torch-backend=cpu "torch==$TORCH_VERSION" && return
    echo "No CPU build of torch $TORCH_VERSION was found. Either offer pip one (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS naming"
    echo "a place with torch==$TORCH_VERSION+cpu), or take the far larger CUDA build, which runs on a CPU too: make setup TORCH=cuda"
    return 1
}

# The version of CUDA that the torch in .venv was built with; nothing for a CPU build, failure without torch.
torch_cuda() {
    .venv/bin/python -c 'import torch; print(torch.version.cuda or "")'
}

case "$TORCH" in
auto | cpu | cuda) ;;
*) fail "TORCH=$TORCH is not one of auto, cpu, cuda" ;;
esac
built=''
if [ -s "$BUILD" ]; then
    built=$(<"$BUILD")
elif [ ! -e "$UNFINISHED" ] && found=$(torch_cuda 2>/dev/null); then # made before that was written down
    built=${found:+cuda}
    built=${built:-cpu}
fi
if [ -n "$built" ]; then
    [ "$TORCH" = auto ] || [ "$TORCH" = "$built" ] ||
        fail "the torch in .venv is the $built build; remove it (rm -r .venv) and run the same command again"
    TORCH=$built
elif [ "$TORCH" = auto ]; then
    if nvidia-smi >/dev/null 2>&1; then TORCH=cuda; else TORCH=cpu; fi
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is not a Python of version 3.11 or later; name one, for example: make setup PYTHON=python3.12"

if [ -e "$UNFINISHED" ]; then
    echo "The last set-up was cut short: starting afresh."
    rm -rf .venv
fi
echo "Setting up .venv (log: $LOG)"
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$PYTHON" -m venv .venv || fail "$PYTHON cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
fi
: >"$LOG"

case "$TORCH-$(uname -s)" in
cpu-Darwin) stage "torch $TORCH_VERSION" install "torch==$TORCH_VERSION" ;; # its only build has no CUDA
cpu-*) stage "torch $TORCH_VERSION for CPU (about 200 MB)" install_cpu_torch ;;
cuda-*) stage "torch $TORCH_VERSION with CUDA (about 3 GB, some minutes)" install "torch==$TORCH_VERSION" ;;
esac
echo "$TORCH" >"$BUILD"
stage "LDARNet and what it needs (some minutes the first time)" install --editable ".[dev]"

cuda_version=$(torch_cuda)
if [ "$TORCH" = cuda ]; then
    if [ -z "$cuda_version" ]; then
        rm "$BUILD"
        fail "the torch in .venv has no CUDA; remove it (rm -r .venv) and run the same command again"
    fi
elif cuda_packages=$(.venv/bin/python -m pip list --format=freeze 2>/dev/null | grep -E '^(nvidia|cuda)-'); then
    fail "CUDA packages on a CPU machine: $(echo $cuda_packages); remove them (rm -r .venv) and run the same command again"
fi
touch .venv/ready-auto ".venv/ready-$TORCH" # for make: older than pyproject.toml, they are made anew
