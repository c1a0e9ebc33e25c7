# Sourced by the other scripts: what they need on a fresh Debian machine.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
say() { echo "$(basename "$0"): $*" >&2; }
die() { say "$*"; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "needs root: it makes namespaces, mounts and control groups"; }

# need_packages PROGRAM=PACKAGE…: installs the packages whose programs are missing.
need_packages() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "install ${missing[*]}"
  say "installing ${missing[*]}"
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_rust() {
  command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
  need_packages cc=gcc
  if ! command -v cargo >/dev/null; then
    # Debian's own rustup fetches the current stable toolchain.
    need_packages rustup=rustup
    say "installing the Rust toolchain"
    rustup toolchain install stable --profile minimal >&2
  fi
}

# build_binaries: builds sandboxd, sandboxctl and the static sandbox-init.
build_binaries() {
  local begun=$SECONDS
  say "building the binaries (2 to 5 minutes the first time)"
  (cd "$here" && cargo build --locked --release --bins) >&2
  build_static sandbox-init
  say "binaries are built after $((SECONDS - begun)) s"
}

# build_static BINARY [OPTION…]: builds it without any library that it would have to find.
build_static() {
  local host binary=$1
  shift
  host="$(rustc -vV | sed -n 's/^host: //p')"
  (cd "$here" && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --no-default-features "$@" --bin "$binary" --target "$host") >&2
  # By another name first: the old one may be running.
  cp -f "$here/target/$host/release/$binary" "$here/target/release/$binary.new"
  mv -f "$here/target/release/$binary.new" "$here/target/release/$binary"
}

# build_probe: builds the hostile program that the tests run inside a sandbox; static, so that it runs in any.
build_probe() {
  build_static sandbox-probe --features probe
}
