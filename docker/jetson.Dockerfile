# edgecl on a Jetson with JetPack 7: TensorRT and its Python module come with the base image.
# Not run on hardware yet; see docs/jetson.md. Build in the root of the repository.
ARG BASE=nvcr.io/nvidia/tensorrt:25.10-py3
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY edgecl ./edgecl
COPY runtime ./runtime
COPY exporters ./exporters
# A venv that sees the image's `tensorrt`.
RUN python3 -m venv --system-site-packages /opt/edgecl \
    && /opt/edgecl/bin/pip install --no-cache-dir '.[cpu]' 'cuda-bindings>=13,<14' \
    && /opt/edgecl/bin/edgecl --help > /dev/null

ENV PATH=/opt/edgecl/bin:$PATH ORT_DISABLE_TELEMETRY=1
WORKDIR /data
ENTRYPOINT ["edgecl"]
