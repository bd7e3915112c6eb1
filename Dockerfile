# Builds seawalld and seawallctl, and an image that holds little else. packaging/compose.yaml runs three
# nodes of it.
#
#   docker build -t seawalld .
#   docker run -p 7000:7000 -p 127.0.0.1:7001:7001 -v seawalld:/data \
#       -e SEAWALLD_BOOTSTRAP_EXPECT=1 -e SEAWALLD_ADVERTISE=127.0.0.1:7000 \
#       -e SEAWALLD_INSECURE=true seawalld
#
# SEAWALLD_ADVERTISE is the address under which clients find the node. The node listens on all
# addresses of the container. It therefore needs TLS (mount the files, and set SEAWALLD_TLS_CERT,
# SEAWALLD_TLS_KEY, SEAWALLD_TLS_CLIENT_CA and SEAWALLD_POLICY), or SEAWALLD_INSECURE=true if every
# client that reaches the port may read and write.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p seawall-server -p seawall-client --bin seawalld --bin seawallctl

FROM debian:bookworm-slim
# `curl` is for the check of health.
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 7000 --home-dir /data --shell /usr/sbin/nologin seawalld \
    && install -d -o seawalld -g seawalld -m 0700 /data
COPY --from=build /src/target/release/seawalld /src/target/release/seawallctl /usr/bin/
USER seawalld
VOLUME /data
EXPOSE 7000 7001
ENV SEAWALLD_DIR=/data \
    SEAWALLD_LISTEN=0.0.0.0:7000 \
    SEAWALLD_METRICS_LISTEN=0.0.0.0:7001
# SIGTERM drains, closes the log, and ends with 0.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:7001/livez"]
ENTRYPOINT ["/usr/bin/seawalld"]
CMD ["run"]
