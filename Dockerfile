# The service: docker build -t emorec . && docker run -p 8000:8000 -v runs:/runs -e EMOREC_API_KEYS=... emorec my-run
FROM python:3.11-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY . .
RUN python -m venv /opt/emorec \
    && /opt/emorec/bin/pip install --no-cache-dir torch --index-url "$TORCH_INDEX" \
    && /opt/emorec/bin/pip install --no-cache-dir "setuptools>=77" ninja \
    && PATH=/opt/emorec/bin:$PATH EMOREC_BUILD_EXT=1 \
        pip install --no-cache-dir --no-build-isolation ".[postgresql,serve]"

FROM python:3.11-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 emorec && mkdir /runs && chown emorec /runs
COPY --from=build /opt/emorec /opt/emorec
USER 10001
WORKDIR /runs
ENV PATH=/opt/emorec/bin:$PATH OMP_NUM_THREADS=1
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
ENTRYPOINT ["emorec", "serve", "--host", "0.0.0.0"]
