# edgecl on the CPU: learns, predicts and forgets with the default engine, which is in it; no torch.
# Not built here; docker/compose.yaml runs it beside a broker. Build in the root of the repository.
ARG BASE=python:3.12-slim
FROM ${BASE}

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY edgecl ./edgecl
COPY runtime ./runtime
COPY exporters ./exporters
RUN python3 -m venv /opt/edgecl \
    && /opt/edgecl/bin/pip install --no-cache-dir '.[cpu,camera,mqtt,metrics]' \
    && /opt/edgecl/bin/edgecl --help > /dev/null \
    && useradd --create-home --uid 1000 edgecl \
    && install -d -o edgecl -g edgecl -m 700 /data

ENV PATH=/opt/edgecl/bin:$PATH ORT_DISABLE_TELEMETRY=1
USER edgecl
WORKDIR /data
ENTRYPOINT ["edgecl"]
