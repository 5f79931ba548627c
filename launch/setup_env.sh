#!/usr/bin/env bash
# Create the Python environment of the project in .venv. Safe to interrupt and to run again.
#
#   launch/setup_env.sh             (called by `make setup` and by every other make target that needs it)
#   PYTHON=python3.12               Python 3.11 or later to create .venv with; default python3
#   TORCH=auto|cpu|cuda             torch build. auto keeps the build of an existing .venv; for a new .venv, it selects CUDA
#                                   if nvidia-smi finds a GPU, else CPU. Use TORCH=cuda on a login node without a GPU
#                                   whose .venv is used on GPU nodes.
#
# Prints one line per stage. The installers' output goes to .venv/setup.log; on failure, the end of this log is printed.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-auto}
TORCH_VERSION=2.13.0
LOG=.venv/setup.log
UNFINISHED=.venv/unfinished # exists while an installer runs; a killed installer leaves a broken .venv
BUILD=.venv/torch-build     # contains the torch build in .venv: cpu or cuda

fail() {
    echo "error: $1" >&2
    exit 1
}

# stage MESSAGE COMMAND...: run an installer and append its output to the log.
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
        fail "the step above failed: see $LOG; fix the cause and run the same command again"
    fi
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check "$@"
}

# Install the CPU build of torch: from the configured package index if it has one, else with uv, from PyTorch's index.
install_cpu_torch() {
    install "torch==$TORCH_VERSION+cpu" && return
    echo "--- the package index has no torch $TORCH_VERSION+cpu; trying uv ---"
    install uv && .venv/bin/uv pip install --python .venv/bin/python --torch-backend=cpu "torch==$TORCH_VERSION" && return
    echo "No CPU build of torch $TORCH_VERSION found. Set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to an index that has"
    echo "torch==$TORCH_VERSION+cpu, or install the much larger CUDA build, which also runs on CPUs: make setup TORCH=cuda"
    return 1
}

# Print the CUDA version of the torch in .venv, or nothing for a CPU build; fails if torch is not installed.
torch_cuda() {
    .venv/bin/python -c 'import torch; print(torch.version.cuda or "")'
}

case "$TORCH" in
auto | cpu | cuda) ;;
*) fail "TORCH=$TORCH: unknown torch build; use auto, cpu or cuda" ;;
esac
built=''
if [ -s "$BUILD" ]; then
    built=$(<"$BUILD")
elif [ ! -e "$UNFINISHED" ] && found=$(torch_cuda 2>/dev/null); then # .venv was created before the build was recorded
    built=${found:+cuda}
    built=${built:-cpu}
fi
if [ -n "$built" ]; then
    [ "$TORCH" = auto ] || [ "$TORCH" = "$built" ] ||
        fail "TORCH=$TORCH: .venv has the $built build of torch; remove .venv (rm -r .venv) and run the same command again"
    TORCH=$built
elif [ "$TORCH" = auto ]; then
    if nvidia-smi >/dev/null 2>&1; then TORCH=cuda; else TORCH=cpu; fi
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "PYTHON=$PYTHON: not Python 3.11 or later; choose another interpreter, for example: make setup PYTHON=python3.12"

if [ -e "$UNFINISHED" ]; then
    echo "The previous setup was interrupted; removing .venv"
    rm -rf .venv
fi
echo "Setting up .venv (log: $LOG)"
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$PYTHON" -m venv .venv || fail "$PYTHON cannot create a virtual environment; on Debian and Ubuntu: apt install python3-venv"
fi
: >"$LOG"

case "$TORCH-$(uname -s)" in
cpu-Darwin) stage "torch $TORCH_VERSION" install "torch==$TORCH_VERSION" ;; # the only macOS build has no CUDA
cpu-*) stage "torch $TORCH_VERSION for CPU (about 200 MB)" install_cpu_torch ;;
cuda-*) stage "torch $TORCH_VERSION with CUDA (about 3 GB, a few minutes)" install "torch==$TORCH_VERSION" ;;
esac
echo "$TORCH" >"$BUILD"
stage "LDARNet and its dependencies (a few minutes the first time)" install --editable ".[all,dev]"

cuda_version=$(torch_cuda)
if [ "$TORCH" = cuda ]; then
    if [ -z "$cuda_version" ]; then
        rm "$BUILD"
        fail "torch in .venv was built without CUDA; remove .venv (rm -r .venv) and run the same command again"
    fi
elif cuda_packages=$(.venv/bin/python -m pip list --format=freeze 2>/dev/null | grep -E '^(nvidia|cuda)-'); then
    fail "CUDA packages in a CPU environment: $(echo $cuda_packages); remove .venv (rm -r .venv) and run the same command again"
fi
touch .venv/ready-auto ".venv/ready-$TORCH" # timestamps that make compares with pyproject.toml
