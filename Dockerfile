# Every command of the harness, as a user without rights; a folder of results and a folder of caches are volumes (docs/docker.md).
#   docker build -t harness .                                    torch with CUDA, as the package index has it
#   docker build -t harness --build-arg TORCH_INDEX=URL .        another build of torch: the index of its CPU builds, say
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS wheel
WORKDIR /checkout
COPY . .
RUN pip install --no-cache-dir -c constraints.txt build hatchling \
 && python -m build --wheel --no-isolation --outdir /wheel

FROM ${PYTHON}
LABEL org.opencontainers.image.title="forgetting-harness" \
      org.opencontainers.image.description="Measure what a language model forgets, and learns, when it is post-trained." \
      org.opencontainers.image.licenses="Apache-2.0"
ARG TORCH_INDEX=
WORKDIR /lab
COPY --from=wheel /checkout/constraints.txt /wheel/ /wheel/
# torch alone first, the large layer that changes least: of the named index if there is one, in the pinned version.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' /wheel/constraints.txt)"
# Open to every user, so that `docker run --user "$(id -u)"` writes results that belong to whoever runs it.
RUN pip install --no-cache-dir -c /wheel/constraints.txt "$(echo /wheel/*.whl)[train,inspect]" \
 && useradd --no-log-init --uid 10001 --home-dir /cache harness \
 && install --directory --mode 1777 /cache /lab/results
# All caches are below the home; libraries ask for the name of a user, which another --user has not.
ENV HOME=/cache USER=harness
USER 10001
VOLUME ["/lab/results", "/cache"]
ENTRYPOINT ["harness"]
