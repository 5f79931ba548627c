# LDARNet with compiled CUDA kernels and pinned versions.
#
#   docker build -t ldarnet .
#   docker run --rm --gpus all ldarnet                        report packages, devices and kernels
#   mkdir -p runs
#   docker run --rm --gpus all --ipc=host --user "$(id -u):$(id -g)" -e HOME=/tmp \
#       -v "$PWD/runs:/opt/ldarnet/runs" ldarnet launch/quickstart.sh
#
# The quickstart runs as your user, so that it can write to ./runs; HOME holds the caches of Triton and torch.
#
# Untested: this image has not been built. The pinned versions exist, but have not been run together. According to its
# package metadata, this torch version is built for CUDA 13.0.
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04

# nvcc and a compiler stay in the image: Triton and DeepSpeed compile at run time. pdsh and ssh connect to other nodes.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        build-essential git make openssh-client pdsh python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --shell /bin/bash ldarnet \
    && mkdir /opt/ldarnet /opt/venv \
    && chown ldarnet /opt/ldarnet /opt/venv
USER ldarnet
WORKDIR /opt/ldarnet
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install "torch==2.13.0" einops ninja numpy packaging setuptools wheel

# Compute capabilities that flash-attn is compiled for: A100 (80), H100 and H200 (90). mamba-ssm and causal-conv1d have
# their own lists. MAX_JOBS: number of parallel compile jobs, which need about 4 GB of memory each.
ARG FLASH_ATTENTION_ARCHITECTURES="80;90"
ARG MAX_JOBS=8
# FORCE_BUILD compiles against the installed torch instead of downloading a wheel built for another version. --no-deps
# skips the other dependencies of mamba-ssm, which only Mamba-3 uses.
RUN FLASH_ATTN_CUDA_ARCHS="$FLASH_ATTENTION_ARCHITECTURES" \
    MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE MAX_JOBS="$MAX_JOBS" \
    pip install --no-build-isolation --no-deps \
        "causal-conv1d==1.7.0" "mamba-ssm==2.3.2.post1" "flash-attn==2.8.3.post2"

COPY --chown=ldarnet . .
RUN DS_BUILD_OPS=0 pip install --editable ".[all,dev]"

CMD ["ldarnet", "doctor"]
