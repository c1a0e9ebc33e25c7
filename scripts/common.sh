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

# install_from_backports PACKAGE: from the release's own archive, else from its backports, through a list of its own that
# changes nothing else of the machine.
install_from_backports() {
  local install=(apt-get install -y -qq --no-install-recommends) codename lists
  export DEBIAN_FRONTEND=noninteractive
  codename="$(. /etc/os-release && echo "$VERSION_CODENAME")"
  lists="$(mktemp -d)"
  # The machine's own mirror, whichever that is.
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" | sort -u | head -n 1 \
    | while read -r mirror; do printf 'deb %s %s main\n' "$mirror" "$codename" "$mirror" "$codename-backports"; done > "$lists/sources.list"
  mkdir -p "$lists/state/partial"
  local private=(-o "Dir::Etc::sourcelist=$lists/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$lists/state")
  apt-get "${private[@]}" update -qq >&2
  "${install[@]}" "${private[@]}" -t "$codename-backports" "$1" >/dev/null
  rm -rf "$lists"
}

# need_runsc: gVisor's program, new enough to pass descriptors into a sandbox; Debian 12 has that in its backports.
need_runsc() {
  passes_descriptors() { [[ "$(runsc run -h 2>&1 || true)" = *-pass-fd* ]]; }
  ! passes_descriptors || return 0
  need_packages runsc=runsc
  passes_descriptors || { say "installing runsc from backports"; install_from_backports runsc; }
  passes_descriptors || die "this runsc is too old: install Debian's runsc of 2024 or later"
}

need_rust() {
  local pinned
  pinned="$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$here/rust-toolchain.toml")"
  command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
  need_packages cc=gcc
  if ! command -v cargo >/dev/null; then
    # Debian's own rustup fetches the toolchain that the tree names.
    need_packages rustup=rustup
    say "installing Rust $pinned"
    rustup toolchain install "$pinned" --profile minimal --component clippy,rustfmt >&2
  fi
  # The same release may be there by the name of its channel only.
  if ! (cd "$here" && rustc --version) >/dev/null 2>&1 && [[ "$(RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null)" = "rustc $pinned "* ]]; then
    export RUSTUP_TOOLCHAIN=stable
  fi
}

# build_binaries: builds sandboxd, sandboxctl and the static sandbox-init.
build_binaries() {
  local begun=$SECONDS
  say "building the binaries (2 to 5 minutes the first time)"
  (cd "$here" && cargo build --locked --release --package sandboxd --package sandboxctl) >&2
  build_static sandbox-init
  say "binaries are built after $((SECONDS - begun)) s"
}

# build_static BINARY: builds the package of that name without any library that it would have to find.
build_static() {
  local host binary=$1
  host="$(rustc -vV | sed -n 's/^host: //p')"
  (cd "$here" && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --package "$binary" --target "$host") >&2
  # By another name first: the old one may be running.
  cp -f "$here/target/$host/release/$binary" "$here/target/release/$binary.new"
  mv -f "$here/target/release/$binary.new" "$here/target/release/$binary"
}

# build_probe: builds the hostile program that the tests run inside a sandbox; static, so that it runs in any.
build_probe() {
  build_static sandbox-probe
}
