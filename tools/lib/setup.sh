# shellcheck shell=bash
# Sourced by tools/check, tools/demo and tools/bench: from a bare Debian and a checkout to built
# programs.

# The door's coroutines need Boost 1.81: newer than the default of Debian 12.
boost=libboost-dev
if grep -qx 'VERSION_ID="12"' /etc/os-release 2>/dev/null; then boost=libboost1.81-dev; fi
readonly boost

# tests/install/check_packages.py compares these lists with what is configured and run.
# shellcheck disable=SC2034  # used by those who source this
readonly build_packages=(  # libmodelpool, coordinatord, poolctl and the demo
  g++ cmake ninja-build pkg-config
  "$boost" libcli11-dev libcpp-httplib-dev libexpected-dev
  libspdlog-dev libssl-dev libsystemd-dev libtomlplusplus-dev libyaml-cpp-dev nlohmann-json3-dev
  prometheus-cpp-dev
)
# shellcheck disable=SC2034
readonly test_packages=(  # the Python package and the tests, beside those
  libgmock-dev libgtest-dev pybind11-dev python3 python3-dev
  bash-completion fish zsh
  apache2-utils nghttp2-client openssl python3-aiohttp python3-httpx python3-jsonschema
  python3-prometheus-client python3-requests python3-websockets
  chromium clang clang-format clang-tidy curl golang-go gunicorn help2man libclang-rt-dev man-db
  patch procps prometheus s6 spin strace systemd uvicorn uwsgi-core uwsgi-plugin-python3 valgrind wrk
)
# shellcheck disable=SC2034
readonly system_packages=(abigail-tools debootstrap)  # the tests with label system, beside those
# shellcheck disable=SC2034
readonly package_packages=(build-essential ccache lintian zstd)  # to make packages, in a bare root
# shellcheck disable=SC2034
readonly bench_packages=(  # what is measured beside the pool, and the drawing
  libbenchmark-dev libgmock-dev libgtest-dev libhiredis-dev python3 python3-matplotlib
  # What matplotlib needs of these is either of two; the others would bring Debian's older Boost.
  python3-defcon python3-munkres
  gunicorn nginx-light openssl patch php8.2-fpm redis-server uwsgi-core uwsgi-plugin-python3 valgrind
)

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# step LOG TITLE COMMAND...: a line and ninja's progress while all is well, the whole output if not.
step() {
  local log=$1 title=$2 line percent shown=0
  shift 2
  printf '%s\n' "-- $title"
  mkdir -p "$(dirname "$log")"
  if "$@" 2>&1 | tee "$log" | while IFS= read -r line; do
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      percent=$((BASH_REMATCH[1] * 100 / BASH_REMATCH[2]))
      if ((percent >= shown + 10)); then
        printf '   %s %d %%\n' "${BASH_REMATCH[0]}" "$percent"
        shown=$percent
      fi
    fi
  done; then
    return
  fi
  cat "$log" >&2
  fail "unable to $title: see the output above, kept in $log"
}

# Installs the packages that are missing, and does nothing when none is.
need_packages() {
  local package missing=() as_root=()
  command -v apt-get >/dev/null ||
    fail "unable to look for packages: this is not Debian. Install what stands for these, then" \
      "use cmake --preset: $*"
  for package; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return; fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "unable to install packages: neither root nor sudo. As root, run:" \
        "apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  step build/packages.log "update the package lists" "${as_root[@]}" apt-get -q update
  step build/packages.log "install ${missing[*]}" "${as_root[@]}" \
    env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install "${missing[@]}"
}

# configure PRESET [CMAKE_OPTION...]
configure() {
  step "build/$1.log" "configure ($1)" cmake --preset "$@"
}

# build PRESET [TARGET...]: what the build preset names, or these targets.
build() {
  local preset=$1 target=()
  shift
  if (($# > 0)); then target=(--target "$@"); fi
  step "build/$preset.log" "build ($preset)" \
    cmake --build --preset "$preset" --parallel "$(nproc)" "${target[@]}"
}
