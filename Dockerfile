# The build stage has pip and hatchling; the image has Python, the locked dependencies and us.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/gateway \
 && /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY deploy/examples/quickstart.yaml deploy/examples/
COPY sidecar sidecar
COPY shm shm
COPY hbone hbone
COPY istio istio
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/gateway/bin/pip install --no-cache-dir --no-deps /dist/*.whl \
 && /opt/gateway/bin/pip uninstall --yes pip

FROM python:${PYTHON}
RUN groupadd --gid 10001 gateway \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
# Stats and readiness; the gateway's own ports are what the configuration says.
EXPOSE 15020 15021
STOPSIGNAL SIGTERM
ENTRYPOINT ["agentgateway-sidecar"]
CMD ["-f", "/etc/agentgateway/config.yaml"]
