# LDARNet with its CUDA kernels compiled, versions pinned.
#
#   docker build -t ldarnet .
#   docker run --rm --gpus all ldarnet                        what this machine has, and what each operation would use
#   mkdir -p runs
#   docker run --rm --gpus all --ipc=host --user "$(id -u):$(id -g)" -e HOME=/tmp \
#       -v "$PWD/runs:/opt/ldarnet/runs" ldarnet launch/quickstart.sh
#
# The last one runs as you, so that it may write to your folder runs; HOME is for the caches of Triton and torch.
#
# Not tried yet: this image has not been built. The pins are versions that exist together, not a combination that has been
# run; that torch's CUDA is 13.0 was read from its package metadata.
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04

# nvcc and a compiler stay in the image: Triton and DeepSpeed compile at run time. pdsh and ssh reach other nodes.
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

# Compute capabilities that flash-attn is compiled for: A100 (80), H100 and H200 (90). mamba-ssm and causal-conv1d heed
# no list and have their own. MAX_JOBS: a compile job takes about 4 GB of memory.
ARG FLASH_ATTENTION_ARCHITECTURES="80;90"
ARG MAX_JOBS=8
# FORCE_BUILD compiles here, against this torch, in place of fetching a wheel made for another one. mamba-ssm's other
# dependencies serve Mamba-3 and are left out.
RUN FLASH_ATTN_CUDA_ARCHS="$FLASH_ATTENTION_ARCHITECTURES" \
    MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE MAX_JOBS="$MAX_JOBS" \
    pip install --no-build-isolation --no-deps \
        "causal-conv1d==1.7.0" "mamba-ssm==2.3.2.post1" "flash-attn==2.8.3.post2"

COPY --chown=ldarnet . .
RUN DS_BUILD_OPS=0 pip install --editable ".[dev]"

CMD ["ldarnet", "doctor"]
