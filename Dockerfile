# The project with its tested versions in one image; by default with Python 3.11, which they were tested with, for CPUs:
#
#   docker build --tag vae .
#   docker run --rm vae make test
#
# On a host with NVIDIA's container toolkit (torch's wheels bring CUDA's libraries along; this base brings Python 3.12):
#
#   docker build --tag vae-cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
#   docker run --rm --gpus all vae-cuda make repro
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS system

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates git graphviz make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM system
WORKDIR /project
# First what the environment is made from, so that an edit elsewhere does not install everything again.
COPY pyproject.toml constraints.txt README.md Makefile ./
COPY vae vae
COPY tools tools
RUN make setup

COPY . .
# Git refuses a folder whose files belong to somebody else; make compares times, which COPY takes from the host.
RUN git config --system --add safe.directory /project && touch .venv/.ready

CMD ["make", "demo"]
