# bash completion of poolctl, coordinatord and poolserve, for bash-completion(7).
# What may come next is the programs' to say: poolctl answers `poolctl complete`, the others --help.

_modelpool_poolctl() {
  local cur prev words cword answer line word
  _init_completion -n =: || return
  mapfile -t answer < <("${words[0]/#\~/$HOME}" complete "${words[@]:1:cword}" 2>/dev/null)
  case ${answer[0]-} in
    files) _filedir ;;
    directories) _filedir -d ;;
    command)
      # A COMMAND of its own, behind the first --.
      local at=1
      while [[ ${COMP_WORDS[at]} != -- ]]; do ((++at)); done
      _command_offset $((at + 1))
      ;;
    words)
      for line in "${answer[@]:1}"; do
        printf -v word %q "${line%%$'\t'*}"
        COMPREPLY+=("$word")
      done
      if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
      __ltrim_colon_completions "$cur"
      ;;
  esac
}

complete -F _modelpool_poolctl poolctl
complete -F _longopt coordinatord poolserve
