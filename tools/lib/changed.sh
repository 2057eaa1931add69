# shellcheck shell=bash
# Sourced by tools/check and .ci/run: what a change consists of.

# The commit that this work began from: MODELPOOL_BASE, or the newest one that is 4 hours older than
# the last. That needs no branch or server to compare with, and is the same in every clone.
base_commit() {
  if [[ -n ${MODELPOOL_BASE-} ]]; then
    git rev-parse --verify --quiet "$MODELPOOL_BASE^{commit}" ||
      { printf 'unable to find commit "%s" of MODELPOOL_BASE\n' "$MODELPOOL_BASE" >&2; return 1; }
    return
  fi
  local last commit
  last=$(git log -1 --format=%ct HEAD)
  commit=$(git rev-list -1 --before="$((last - 4 * 3600))" HEAD)
  printf '%s\n' "${commit:-$(git rev-list --max-parents=0 HEAD | tail -n 1)}"
}

# changed_files [PATH...]: the files below these paths that differ from there and still exist, also
# what is not committed.
changed_files() {
  local base
  base=$(base_commit) || return
  {
    git diff --name-only --diff-filter=d "$base" -- "$@"
    git ls-files --others --exclude-standard -- "$@"
  } | sort -u
}
