# Samvad with Firestore as a possible store, and limits in Redis. Every package is pinned by hash; nothing of the build stays.
#
#   docker build --tag samvad .
#   docker run --rm --publish 127.0.0.1:8080:8080 --volume samvad:/data --env SAMVAD_INSECURE=true samvad
#
# docs/how-to/deploy-cloud-run.md says what SAMVAD_INSECURE means here.

ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/container.lock requirements/build.lock requirements/
# The packages change less often than the code: a layer of their own.
RUN python -m venv --without-pip /opt/samvad \
    && pip --python /opt/samvad/bin/python install --require-hashes --no-deps --only-binary :all: \
        --requirement requirements/container.lock \
    && pip install --require-hashes --no-deps --only-binary :all: --requirement requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir wheels . \
    && pip --python /opt/samvad/bin/python install --no-deps --no-index wheels/*.whl \
    && find /opt/samvad -name __pycache__ -prune -exec rm -rf {} + \
    && /opt/samvad/bin/python -m compileall -q /opt/samvad/lib \
    && install -d -m 0700 -o 10001 -g 10001 /empty-data

FROM python:${PYTHON}
ENV PATH=/opt/samvad/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SAMVAD_DATA_DIR=/data \
    SAMVAD_HOST=0.0.0.0 \
    SAMVAD_LOG_FORMAT=json \
    SAMVAD_PORT=8080
COPY --from=build /opt/samvad /opt/samvad
# What must survive: the database, or the journal in front of Firestore. Only its owner may look inside.
COPY --from=build --chown=10001:10001 /empty-data /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
# SIGTERM: nothing new is accepted, what waits is written for up to SAMVAD_DRAIN_S (8) seconds.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"SAMVAD_PORT\"]}/healthz', timeout=2)"]
ENTRYPOINT ["samvad"]
CMD ["serve"]
