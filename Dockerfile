# The daemon alone, without the demo's servers.
#
# Rules that must stay true here:
# - Every Python package is pinned with its hash; pip and setuptools do not reach the image that runs.
# - It runs as a user without rights; what it writes lies in /var/lib/rotator and /run/rotator, the rest may be read-only.
# - Base and recipe need nothing but a Debian 12: BASE names your own mirror's image of it.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# Debian's own updates are wanted at each build, so its packages are not pinned.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3 python3-pip python3-venv && \
    python3 -m venv --without-pip /opt/rotator
WORKDIR /src
COPY requirements/runtime.txt requirements/runtime.txt
# --python: Debian's pip installs into an environment that has none.
RUN python3 -m pip --python /opt/rotator/bin/python install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md ./
COPY rotator rotator
RUN python3 -m pip --python /opt/rotator/bin/python install --no-cache-dir --no-build-isolation --no-deps . && \
    python3 -m pip --python /opt/rotator/bin/python uninstall --yes setuptools && \
    # Half of the Kubernetes client is a second one, for asyncio, that nothing here imports.
    rm -r /opt/rotator/lib/python3*/site-packages/kubernetes/aio && \
    /opt/rotator/bin/rotator --help >/dev/null

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates python3 && \
    apt-get clean && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt && \
    groupadd --gid 10001 rotator && \
    useradd --uid 10001 --gid rotator --no-create-home --home-dir /var/lib/rotator --shell /usr/sbin/nologin rotator && \
    install --directory --owner rotator --group rotator --mode 0750 /var/lib/rotator /run/rotator && \
    install --directory /etc/rotator
COPY --from=build /opt/rotator /opt/rotator
LABEL org.opencontainers.image.title="rotator" \
      org.opencontainers.image.description="Short-lived certificates and identities for Airflow on the Kuma service mesh"
ENV PATH=/opt/rotator/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/rotator
VOLUME /var/lib/rotator
# The daemon's own answer over its socket; Kubernetes ignores this and has probes of its own.
HEALTHCHECK --interval=60s --timeout=10s --start-period=30s CMD ["rotator", "--json", "status"]
# The daemon is process 1 itself: SIGTERM reaches it without a shell in between.
STOPSIGNAL SIGTERM
ENTRYPOINT ["rotator"]
CMD ["run"]
