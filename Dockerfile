# sandboxd in one image. Builds with the classic builder: docker build -t sandboxd .
#
# Behind a TLS-inspecting proxy put its certificates into ca-bundle.crt beside this file first; they
# are used while building and are not part of the image.

# The manifests alone, with nothing behind them: what the layer of dependencies is made of. It changes when a manifest does.
FROM rust:1-trixie AS manifests
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY tests tests
RUN find src benches tests -type f ! -name Cargo.toml ! -name lib.rs ! -name main.rs ! -path 'src/bin/*' ! \( -path 'tests/*.rs' ! -path 'tests/*/*' \) -delete \
 && find src benches tests -mindepth 1 -type d -empty -delete \
 && find src benches tests -name '*.rs' -exec sh -c 'for file; do echo "fn main() { }" > "$file"; done' sh {} +

FROM rust:1-trixie AS build
WORKDIR /src
# The second name always exists, so that the first may be absent.
COPY ca-bundle.cr[t] rust-toolchain.toml /tmp/ca/
ENV CARGO_HTTP_CAINFO=/tmp/ca/bundle.crt
RUN cat /tmp/ca/ca-bundle.crt /etc/ssl/certs/ca-certificates.crt > /tmp/ca/bundle.crt 2>/dev/null || cp /etc/ssl/certs/ca-certificates.crt /tmp/ca/bundle.crt
# The dependencies are a layer of their own: they change rarely and take longest.
COPY --from=manifests /src ./
RUN cargo build --release --locked --package sandboxd --package sandboxctl \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --package sandbox-init --target "$(rustc -vV | sed -n 's/^host: //p')"
COPY src src
COPY oci oci
RUN find src -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package sandboxd --package sandboxctl \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --package sandbox-init --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && mkdir /out && cp target/release/sandboxd target/release/sandboxctl target/*/release/sandbox-init /out/

FROM debian:trixie-slim
COPY ca-bundle.cr[t] rust-toolchain.toml /tmp/build/
COPY scripts/build-rootfs /tmp/build/scripts/build-rootfs
COPY rootfs /tmp/build/rootfs
# Built in place, since a copy from another stage would give every file to root.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nftables runsc mmdebstrap ca-certificates \
 && if [ -f /tmp/build/ca-bundle.crt ]; then set -- --ca-bundle /tmp/build/ca-bundle.crt; else set --; fi \
 && /tmp/build/scripts/build-rootfs --output /usr/share/sandboxd/rootfs "$@" \
 && apt-get purge -y -qq --auto-remove mmdebstrap \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /tmp/build /usr/share/sandboxd/*.lock
COPY --from=build /out/ /usr/local/bin/
ENV SANDBOXD_ADDR=0.0.0.0:9090 SANDBOXD_PREVIEW_ADDR=0.0.0.0:80
VOLUME /var/lib/sandboxd
EXPOSE 9090 80
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=90s CMD ["/usr/local/bin/sandboxd", "health"]
ENTRYPOINT ["/usr/local/bin/sandboxd"]
CMD ["supervise"]
