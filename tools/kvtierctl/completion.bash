# SPDX-License-Identifier: Apache-2.0
#
# bash completion for kvtierctl: commands, options, and the names and numbers that a running daemon has. kvtierctl
# itself says which: this file has no list of its own.

_kvtierctl() {
  local current="${COMP_WORDS[COMP_CWORD]}" previous="" program="${COMP_WORDS[0]}" command="" word i
  ((COMP_CWORD > 0)) && previous="${COMP_WORDS[COMP_CWORD - 1]}"
  local -a folder=() arguments=()
  COMPREPLY=()

  # The words so far: the folder, the command, and what it was given besides options.
  for ((i = 1; i < COMP_CWORD; ++i)); do
    word="${COMP_WORDS[i]}"
    case "$word" in
      --socket-dir)
        # The value may be typed as --socket-dir=DIR, which bash splits at the =.
        i=$((i + 1))
        [[ "${COMP_WORDS[i]-}" == "=" ]] && i=$((i + 1))
        ((i < COMP_CWORD)) && folder=(--socket-dir "${COMP_WORDS[i]}")
        ;;
      --arena | --tier | --column | --timeout | --out | --seconds | --interval | --batch | --view | --since | --kind | \
        --config | --fsroot)
        i=$((i + 1))
        [[ "${COMP_WORDS[i]-}" == "=" ]] && i=$((i + 1))
        ;;
      -*) ;;
      *) if [[ -z "$command" ]]; then command="$word"; else arguments+=("$word"); fi ;;
    esac
  done
  if [[ "$previous" == "=" ]] && ((COMP_CWORD > 1)); then previous="${COMP_WORDS[COMP_CWORD - 2]}"; fi
  [[ "$current" == "=" ]] && current=""

  local what
  case "$previous" in
    --socket-dir)
      compopt -o filenames 2> /dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    --arena) what=arenas ;;
    --tier) what=tiers ;;
    --view) what=views ;;
    --kind) what=kinds ;;
    --fsroot)
      compopt -o filenames 2> /dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    --out | --config)
      compopt -o filenames 2> /dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
      ;;
    --column | --timeout | --seconds | --interval | --batch | --since) return ;;
    *)
      if [[ "$current" == -* ]]; then
        what="${command:-options}"
      elif [[ -z "$command" ]]; then
        what=commands
      elif [[ "$command" == evict-session && ${#arguments[@]} -eq 0 ]]; then
        what=sessions
      elif [[ "$command" == drain && ${#arguments[@]} -eq 0 ]]; then
        what=tiers
      elif [[ "$command" == resize && ${#arguments[@]} -eq 0 ]]; then
        what=arenas
      elif [[ "$command" == move || "$command" == resize ]] && [[ ${#arguments[@]} -eq 1 ]]; then
        what=tiers
      elif [[ "$command" == config && ${#arguments[@]} -eq 0 ]]; then
        what=actions
      elif [[ "$command" == arena && ${#arguments[@]} -eq 0 ]]; then
        what=arena-actions
      elif [[ "$command" == arena && ${#arguments[@]} -eq 1 && "${arguments[0]}" == delete ]]; then
        what=arenas
      elif [[ "$command" == policy && ${#arguments[@]} -eq 0 ]]; then
        what=policy-actions
      elif [[ "$command" == tier && ${#arguments[@]} -eq 0 ]]; then
        what=tier-actions
      elif [[ "$command" == tier && ${#arguments[@]} -eq 1 && "${arguments[0]}" == remove ]]; then
        what=tiers
      elif [[ "$command" == config && "${arguments[0]}" == check ]]; then
        compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
      else
        return
      fi
      ;;
  esac
  # Names may have spaces: compgen -W would split them.
  while IFS= read -r word; do
    [[ "$word" == "$current"* ]] && COMPREPLY+=("$(printf '%q' "$word")")
  done < <("$program" "${folder[@]}" complete-words "$what" 2> /dev/null)
}
complete -F _kvtierctl kvtierctl
