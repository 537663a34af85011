# edgecl on a PC with an NVIDIA GPU: onnxruntime on CUDA 13, and TensorRT for RTX.
# Not run on hardware yet; see docs/deploy.md. Build in the root of the repository.
ARG BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY edgecl ./edgecl
COPY runtime ./runtime
COPY exporters ./exporters
RUN python3 -m venv /opt/edgecl \
    && /opt/edgecl/bin/pip install --no-cache-dir '.[gpu,tensorrt-rtx]' \
    && /opt/edgecl/bin/edgecl --help > /dev/null

ENV PATH=/opt/edgecl/bin:$PATH ORT_DISABLE_TELEMETRY=1
WORKDIR /data
ENTRYPOINT ["edgecl"]
