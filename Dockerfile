# The sidecar: Envoy runs beside it and shares the folder of its socket.
#   docker build -t authz .
#   docker run --read-only --cap-drop ALL -v authz-run:/run/authz -v authz-data:/var/lib/authz \
#     -v ./authz.yaml:/etc/authz/authz.yaml:ro -v ./policies:/etc/authz/policies:ro -e GROQ_API_KEY authz

# glibc, not musl: grpcio's and cedarpy's wheels for it are the ones that upstream tests.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/authz \
 && /opt/authz/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md ./
COPY authz/ authz/
RUN /opt/build/bin/python -m build --no-isolation --wheel \
 && /opt/authz/bin/pip install --no-cache-dir --no-deps dist/*.whl

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 authz \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin authz \
 && install -d -o 10001 -g 10001 -m 0700 /run/authz /var/lib/authz
COPY --from=build /opt/authz /opt/authz
ENV PATH=/opt/authz/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /etc/authz
VOLUME ["/run/authz", "/var/lib/authz"]
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s CMD ["authz", "health", "--config", "/etc/authz/authz.yaml"]
ENTRYPOINT ["authz", "serve"]
CMD ["--config", "/etc/authz/authz.yaml"]
