# shellcheck shell=bash
# Sourced by tools/check: the style of what changed. Code is kept by Debian 12's clang 14, since
# other versions lay out differently and find other things; comments and prose by columns.py.
#
# Needs changed.sh and setup.sh.

readonly style_version=14

# check_style: says what is wrong and ends with 1 if anything is; 77 where there is no clang 14.
check_style() {
  local wrong=0 result=0
  check_columns || wrong=1
  check_code || result=$?
  if ((wrong != 0)); then return 1; fi
  return "$result"
}

check_columns() {
  local base changed files=()
  base=$(base_commit) || return 1
  changed=$(changed_files) || return 1
  if [[ -z $changed ]]; then return; fi
  mapfile -t files <<<"$changed"
  python3 tools/lib/columns.py "$base" "${files[@]}"
}

check_code() {
  local tool changed sources=() files=() wrong=0
  for tool in clang-format clang-tidy; do
    if ! "$tool" --version 2>/dev/null | grep -q "version $style_version\."; then
      printf 'skipped: %s is not of version %d\n' "$tool" "$style_version"
      return 77
    fi
  done
  changed=$(changed_files '*.cpp' '*.hpp' '*.h' '*.c') || return 1
  if [[ -z $changed ]]; then return; fi
  mapfile -t files <<<"$changed"
  clang-format --dry-run --Werror "${files[@]}" || wrong=1

  # The presets for clang have -Wthread-safety; what is precompiled, clang-tidy cannot read.
  cmake --preset clang -B build/style -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON >build/style.log 2>&1 ||
    { cat build/style.log >&2; return 1; }
  mapfile -t sources < <(python3 tools/lib/compiled.py build/style "${files[@]}")
  if ((${#sources[@]} > 0)); then
    printf '%s\0' "${sources[@]}" |
      xargs -0 -n 4 -P "$(nproc)" clang-tidy -p build/style/once --quiet 2>/dev/null || wrong=1
  fi
  return "$wrong"
}
