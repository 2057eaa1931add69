# shellcheck shell=bash
# Sourced by demo_run.sh: what poolserve does, on a pool of its own. One URL, requests that stream,
# and kills in the middle of them.
# shellcheck disable=SC2154  # variables of demo_run.sh

readonly door_workers=4 streams_at_once=16 stream_ms=3000
readonly prompt='models that no kill makes cold'

door='' port='' streams=()

write_door_config() {
  cat >"$dir/pool.toml" <<TOML
[pool]
max_backends = 2
[serve]
listen = "127.0.0.1:0"      # 0: any port that is free
workers = $door_workers
[models."chat"]
command = ["$BIN/demo_backend", "--name", "chat", "--port", "{port}", "--memory", "$1", "--load-time", "1s"]
[models."code"]
command = ["$BIN/demo_backend", "--name", "code", "--port", "{port}", "--memory", "24MiB", "--load-time", "1s"]
TOML
}

said_often_enough() { (($(grep -c "$1" "$dir/poolserve.log") >= $2)); }

# Until it serves: its coordinator as well, which it starts where there is none.
start_door() {
  local before serves=' serving pool door: .* on '
  before=$(grep -c "$serves" "$dir/poolserve.log") || :
  "$BIN/poolserve" --config "$dir/pool.toml" --pool door --dir "$dir/pool" \
    2>>"$dir/poolserve.log" &
  door=$!
  until_true said_often_enough "$serves" $((before + 1)) || fail "poolserve does not serve"
  port=$(sed -n 's/.* serving pool .* on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/poolserve.log" | tail -n 1)
}

# stream TAG MODEL MS: a chat at the one URL, in the background; what comes is in streams/TAG.
stream() {
  local body="{\"model\": \"$2\", \"stream\": true, \"max_tokens\": 20, \"ms\": $3,"
  body+=" \"messages\": [{\"role\": \"user\", \"content\": \"$prompt\"}]}"
  {
    exec 4<>"/dev/tcp/127.0.0.1/$port"
    printf 'POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\n%s\r\n%s\r\n\r\n%s' \
      "X-Request-Id: $1" "Content-Length: ${#body}" "$body" >&4
    cat <&4
  } >"$dir/streams/$1" 2>>"$dir/streams.log" &
  streams+=($!)
}
await_streams() {
  wait "${streams[@]}" || :  # who was cut is for its file to say
  streams=()
}
is_whole() { grep -q '^data: \[DONE\]' "$dir/streams/$1"; }
cut_streams() {  # of those with this prefix
  local file
  for file in "$dir/streams/$1"*; do is_whole "${file##*/}" || printf '%s\n' "${file##*/}"; done
}
is_answered() {  # TAG MODEL, while others stream
  local others=("${streams[@]}")
  stream "$1" "$2" 0
  wait "${streams[-1]}" || :
  streams=("${others[@]}")
  is_whole "$1"
}

# TAGs of a worker's requests; all of them without a PID.
tags_of() {
  ctl -o json leases | tr -d ' \n' | tr '}' '\n' |
    sed -nE "s/.*\"worker_pid\":${1:-[0-9]+},.*\"tag\":\"([^\"]+)\".*/\1/p" | sort
}
has_streams() { (($(tags_of | grep -c "^$1") == $2)); }
busiest_worker() {
  ctl -o json leases | grep -oE '"worker_pid": [0-9]+' | sort | uniq -c | sort -rn |
    sed -n '1s/.*: //p'
}
# With the master, which looks at the pool too.
has_door_workers() { (($(ctl workers | grep -cE ' poolserve .* alive') > door_workers)); }

begin_streams() {  # PREFIX COUNT MS
  local i models=(chat code)
  mark
  before=$(backend_pids)
  for ((i = 1; i <= $2; ++i)); do stream "$1$i" "${models[i % 2]}" "$3"; done
  until_true has_streams "$1" "$2"
}
nothing_was_loaded() { [[ $(backend_pids) == "$before" ]] && ! has_event '"kind":"(loaded|evicted|killed|exited)"'; }

# --- Scenes --------------------------------------------------------------------------------------

one_url() {
  heading "poolserve --config pool.toml: two models at one URL"
  write_door_config 24MiB
  sed -n '/models/,$s/^/    /p' "$dir/pool.toml" | sed "s|$BIN/||g"
  start_door
  follow_events
  mark
  say "curl http://127.0.0.1:$port/v1/chat/completions -d '{\"model\": \"chat\", \"stream\": true, ...}'"
  stream first-chat chat 200
  stream first-code code 200
  await_streams
  grep -E '^(HTTP|X-Modelpool|: )' "$dir/streams/first-chat" | tr -d '\r' | sed 's/^/    /'
  say "  $(sed -n 's/.*"content":"\([^"]*\)".*/\1/p' "$dir/streams/first-chat" | head -n 7 | tr -d '\n') ..."
  if [[ -n $(cut_streams first) ]]; then
    miss url "no whole answer: $(tail -n 1 "$dir/streams/first-chat")"
  elif ! await_event '"kind":"loaded".*"model":"chat"' || ! await_event '"kind":"loaded".*"model":"code"'; then
    miss url "not both models were loaded"
  else
    pass url "chat and code, each loaded by the first request that named it"
  fi
}

kill_door_worker() {
  heading "$streams_at_once answers stream; the worker that serves most of them is killed with SIGKILL"
  local before victim own cut whole
  if ! begin_streams w "$streams_at_once" "$stream_ms"; then
    miss door_worker "not all of $streams_at_once requests were served at once"
    return
  fi
  # Stopped first, so that what it has is known.
  victim=$(busiest_worker)
  kill -STOP "$victim"
  own=$(tags_of "$victim")
  kill -KILL "$victim"
  await_streams
  cut=$(cut_streams w | sort)
  whole=$((streams_at_once - $(wc -w <<<"$cut")))
  say "worker $victim had $(wc -w <<<"$own") of them; cut: $(wc -w <<<"$cut"), whole: $whole; models: $(backend_pids)"
  if [[ $cut != "$own" || $whole == 0 ]]; then
    miss door_worker "it had $(paste -sd ' ' <<<"$own"); cut: $(paste -sd ' ' <<<"$cut")"
  elif ! nothing_was_loaded; then
    miss door_worker "models were loaded or ended: $before, then $(backend_pids)"
  elif ! until_true has_door_workers; then
    miss door_worker "no other worker took its place"
  else
    pass door_worker "$(wc -w <<<"$cut") cut, $whole whole, no load; another worker took its place"
  fi
}

kill_door_master() {
  heading "$streams_at_once answers stream; poolserve's master is killed, and poolserve started again"
  local before cut meanwhile=1
  if ! begin_streams m "$streams_at_once" "$stream_ms"; then
    miss door_master "not all of $streams_at_once requests were served at once"
    return
  fi
  kill -KILL "$door"
  reap "$door" || :
  if is_answered without chat; then say "without it: a new request is answered"; else meanwhile=0; fi
  start_door
  sed -n 's/.* info  \(taking over.*\)/  \1/p' "$dir/poolserve.log" | tail -n 1
  if is_answered again code; then say "with the new one: again"; else meanwhile=0; fi
  await_streams
  cut=$(cut_streams m)
  say "cut: $(wc -w <<<"$cut"), whole: $((streams_at_once - $(wc -w <<<"$cut"))); models: $(backend_pids)"
  if [[ -n $cut ]]; then
    miss door_master "cut: $(paste -sd ' ' <<<"$cut")"
  elif ((!meanwhile)); then
    miss door_master "a request was not answered meanwhile"
  elif ! said_often_enough 'taking over' 1; then
    miss door_master "the new poolserve took nothing over"
  elif ! nothing_was_loaded; then
    miss door_master "models were loaded or ended: $before, then $(backend_pids)"
  else
    pass door_master "nothing cut or refused, no load; the new one took the sockets over"
  fi
}

reload_door() {
  heading "chat's command is changed in pool.toml: SIGHUP"
  local before after
  if ! begin_streams r 4 1500; then
    miss door_reload "not all of 4 requests were served at once"
    return
  fi
  write_door_config 32MiB
  kill -HUP "$door"
  if ! until_true drained >/dev/null; then
    miss door_reload "chat was not closed"
    return
  fi
  ctl list | sed 's/^/    /'
  await_streams
  if [[ -n $(cut_streams r) ]]; then
    miss door_reload "cut: $(cut_streams r | paste -sd ' ')"
  elif ! await_event '"kind":"evicted",.*"model":"chat"' || ! is_answered reloaded chat; then
    miss door_reload "chat was not started anew"
  else
    after=$(backend_pids)
    if [[ ${after%% code*} == "${before%% code*}" || ${after##*code } != "${before##*code }" ]]; then
      miss door_reload "models: $before, then $after"
    else
      pass door_reload "chat ended when idle and was started anew; code stayed; nothing cut"
    fi
  fi
}

end_door() {
  kill -TERM "$door"
  wait "$door" || :
  ctl remove --stop 2>>"$dir/poolctl.log" || :
  kill "$follower" 2>/dev/null || :
  wait "$follower" "$shower" 2>/dev/null || :
}
