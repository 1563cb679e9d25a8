# The container image. Two targets: `edge` (the default) loads the stored packet program and has no compiler of any
# kind; `bcc` compiles it on the node, by bcc. With an engine: docker build -t localhost/xdp-edge:dev .
# Without one: make image (manifests/image/build.py). What changes most often is the last and smallest layer.

ARG BASE=debian:12-slim

# ---- what builds, and stays behind ----
FROM ${BASE} AS tools
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends \
        gcc libc6-dev python3-dev python3-venv libssl-dev libpcre2-dev liburing-dev \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src
COPY pyproject.toml ./
# Two environments: one builds, the other one is shipped and has no pip. The latter sees the distribution's
# packages, for bcc is one of them. Of the Kubernetes client only its transport and credentials are used: its
# second, asynchronous half (68 MB) stays here, and so does the bytecode of a thousand models (30 MB).
RUN python3 -m venv /tools && python3 -m venv --system-site-packages --without-pip /opt/xdp-edge \
 && python3 -c 'import tomllib; a = tomllib.load(open("pyproject.toml", "rb")); b = a["project"]; \
        print("wheel", *a["build-system"]["requires"], sep="\n", file=open("/tools/builds", "w")); \
        print(*b["dependencies"], sep="\n", file=open("/tools/runs", "w"))' \
 && /tools/bin/pip install -q --disable-pip-version-check -r /tools/builds \
 && /tools/bin/pip --python /opt/xdp-edge/bin/python install -q --disable-pip-version-check -r /tools/runs \
 && cd /opt/xdp-edge/lib/python3*/site-packages/kubernetes \
 && rm -rf aio client/models/__pycache__ client/api/__pycache__ \
 && /opt/xdp-edge/bin/python -B -c 'import _cffi_backend, cryptography, h11, kubernetes.config, msgspec, pyroute2, yaml'

FROM tools AS program
COPY bpf bpf
COPY csrc csrc
# The data plane alone first: a change of Python then compiles nothing.
RUN mkdir -p edge/native && touch edge/__init__.py edge/native/__init__.py \
 && /tools/bin/python -c 'import setuptools; setuptools.setup()' -q build_ext --build-lib /tmp/early >/dev/null
COPY LICENSE ./
COPY edge edge
RUN /tools/bin/pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w /wheel . \
 && /tools/bin/pip --python /opt/xdp-edge/bin/python install -q --disable-pip-version-check --no-deps \
        --prefix /installed /wheel/*.whl

# ---- what is shipped ----
FROM ${BASE} AS runtime
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3 libssl3 libpcre2-8-0 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && mkdir -p /run/edge /var/lib/edge
ENV PATH=/opt/xdp-edge/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=tools /opt/xdp-edge /opt/xdp-edge

FROM runtime AS runtime-bcc
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3-bpfcc \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

FROM runtime-bcc AS bcc
COPY --from=program /installed /opt/xdp-edge
ENTRYPOINT ["edge"]
CMD ["run"]

FROM runtime AS edge
COPY --from=program /installed /opt/xdp-edge
ENTRYPOINT ["edge"]
CMD ["run"]
