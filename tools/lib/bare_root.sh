# shellcheck shell=bash
# Sourced by tools/package/run and the tests that need one: a bare Debian below a directory, and
# commands in it.

# Says why there can be none here, and fails; or prints nothing.
bare_root_possible() {
  local why
  if ((EUID != 0)); then
    why='not root'
  elif ! command -v debootstrap >/dev/null; then
    why='no debootstrap (apt-get install debootstrap)'
  elif [[ ! -e /etc/apt/sources.list.d/debian.sources ]]; then
    why='the host is no Debian whose mirror is known'
  elif ! unshare --mount true 2>/dev/null; then
    why='no mount namespaces here'
  elif ! debian_mirror >/dev/null; then
    why='no Debian mirror is known'
  else
    return 0
  fi
  printf '%s\n' "$why"
  return 1
}

debian_mirror() { apt-get indextargets --format '$(REPO_URI)' | grep -m 1 -E '/debian/?$'; }

# make_bare_root SUITE DIR: in an empty DIR. The packages' index is the host's.
make_bare_root() {
  local suite=$1 root=$2
  debootstrap --variant=minbase "$suite" "$root" "$(debian_mirror)" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; rm -f "$root.log"; return 1; }
  rm -f "$root.log" "$root/etc/apt/sources.list"
  sed "s/bookworm/$suite/g" /etc/apt/sources.list.d/debian.sources \
    >"$root/etc/apt/sources.list.d/debian.sources"
  cp /etc/apt/apt.conf.d/99* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
}

# copy_tree SOURCE DIR: what git knows of it, as it is now.
copy_tree() {
  local source=$1 dir=$2
  mkdir -p "$dir"
  git -C "$source" ls-files -z --cached --others --exclude-standard |
    (cd "$source" && xargs -0 sh -c 'for f; do if [ -e "$f" ]; then printf "%s\0" "$f"; fi; done' sh) |
    tar -C "$source" --null -T - -c | tar -C "$dir" -x
}

# in_bare_root DIR COMMAND...: the mounts live in a namespace of their own and go with the command;
# so do its processes. BARE_ROOT_BIND=SOURCE:TARGET shows a folder of the host there.
in_bare_root() {
  BARE_ROOT_BIND=${BARE_ROOT_BIND-} unshare --mount --pid --fork --kill-child --propagation private bash -eu -c '
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t tmpfs tmpfs "$root/run"
    if [ -n "$BARE_ROOT_BIND" ]; then
      mkdir -p "$root${BARE_ROOT_BIND#*:}"
      mount --bind "${BARE_ROOT_BIND%%:*}" "$root${BARE_ROOT_BIND#*:}"
    fi
    # Not exec: process 1, which takes in orphans, is this shell.
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
      DEBIAN_FRONTEND=noninteractive $(env | grep -iE "^(https?_proxy|no_proxy)=" || true) \
      chroot "$root" "$@"
  ' bash "$@"
}
