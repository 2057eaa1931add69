#!/bin/bash
# Run by tools/demo: the main job on real processes, scene by scene, then a table of what was seen.
# Ends with 0 only if all of it was. BIN: the directory of the programs.
#
# Each scene waits for conditions, not for time to pass, and works with bash, coreutils, grep and
# sed. The pool is its own, under /dev/shm; processes and files go when this ends, however it ends.
set -euo pipefail
# Locale and settings of whoever runs this change nothing here.
export LC_ALL=C
unset MODELPOOL_POOL MODELPOOL_DIR MODELPOOL_BACKEND NOTIFY_SOCKET WATCHDOG_USEC

readonly pool=demo max_backends=2 busy_timeout=3s idle_timeout=3s
readonly patience_s=20  # for one condition, on a loaded machine

# --- What has to be seen -------------------------------------------------------------------------

readonly shows=(url door_worker door_master door_reload
  sharing drain idle hang worker_death coordinator_death limit consistent)
declare -rA title=(
  [url]="poolserve loaded models at one URL"
  [door_worker]="its worker, killed, cut only its own"
  [door_master]="its master, killed, cut nothing"
  [door_reload]="a new config ended only what changed"
  [sharing]="loads are shared between workers"
  [drain]="an LRU eviction waited for a lease"
  [idle]="idle backends were evicted"
  [hang]="a hung request was found and killed"
  [worker_death]="a killed worker's leases were cleared"
  [coordinator_death]="a killed coordinator was continued"
  [limit]="never more than $max_backends backend processes"
  [consistent]="no invariant is broken"
)
declare -A seen=() missed=()

pass() { seen[$1]=$2; }
miss() {
  missed[$1]=$2
  say "${red}not seen: $2$plain"
}

# --- Output --------------------------------------------------------------------------------------

bold='' red='' green='' dim='' plain=''
if [[ -t 1 && -z ${NO_COLOR-} && ${TERM-dumb} != dumb ]]; then
  bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' dim=$'\e[2m' plain=$'\e[0m'
fi

say() { printf '  %s\n' "$*"; }
heading() { printf '\n%s== %s ==%s\n' "$bold" "$*" "$plain"; }
fail() {
  printf 'unable to run the demo: %s\n' "$*" >&2
  exit 1
}

# The member NAME of a JSON object on one line; nothing if it is null or not there.
field() {
  local value=''
  if [[ $1 =~ \"$2\":(\"([^\"]*)\"|[0-9]+) ]]; then
    value=${BASH_REMATCH[2]:-${BASH_REMATCH[1]}}
  fi
  printf '%s' "$value"
}

ms_text() {
  if (($1 < 1000)); then printf '%d ms' "$1"; else printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); fi
}

worker_text() {
  if [[ -e $dir/names/$1 ]]; then
    printf 'worker %s' "$(<"$dir/names/$1")"
  else
    printf 'pid %s' "${1:-unknown}"
  fi
}

# An event for people.
event_text() {
  local event=$1 kind reason text details='' evidence='' colour=''
  kind=$(field "$event" kind) reason=$(field "$event" reason) text=$(field "$event" text)
  local signal gone
  signal=$(field "$event" signal) gone=$(field "$event" exit_ms)
  case $kind in
    loaded)
      details="by $(worker_text "$(field "$event" worker_pid)") in $(field "$event" load_ms) ms"
      details+=", pid $(field "$event" pid)"
      ;;
    evicted | killed)
      details="$reason"
      case $reason in
        idle | busy)
          details+=" for $(ms_text "$(field "$event" age_ms)") of"
          details+=" $(ms_text "$(field "$event" limit_ms)")"
          ;;
      esac
      if [[ $reason == busy ]]; then
        details+=", request $(field "$event" tag) of $(worker_text "$(field "$event" worker_pid)")"
        evidence=$text
      fi
      details+=", ${signal:-no signal}, gone after ${gone:-?} ms"
      ;;
    worker_died)
      details="$(worker_text "$(field "$event" worker_pid)"), leases cleared: $(field "$event" count)"
      ;;
    coordinator_started) details="pid $(field "$event" pid), epoch $(field "$event" count)" ;;
    *) details="${reason:+$reason }$text" ;;
  esac
  case $kind in killed | worker_died | load_failed) colour=$red ;; *) colour=$green ;; esac
  local time
  time=$(field "$event" time) time=${time#*T} time=${time%Z}
  printf '  %s%s%s %s%-19s%s %-7s %s\n' "$dim" "$time" "$plain" "$colour" "$kind" "$plain" \
    "$(field "$event" model)" "$details"
  if [[ -n $evidence ]]; then printf '  %40s evidence: %s\n' '' "$evidence"; fi
}

# What is in the file has been shown: scenes wait on the file, so headings come after.
show_events() {
  local event
  while IFS= read -r event; do
    case $(field "$event" kind) in
      settings_changed) ;;
      *) event_text "$event" ;;
    esac
    printf '%s\n' "$event" >>"$dir/events"
  done
}

# In the background, for the pool that poolctl shows.
follow_events() {
  rm -f "$dir/follow"
  mkfifo "$dir/follow"
  : >"$dir/events"
  show_events <"$dir/follow" &
  shower=$!
  "${poolctl[@]}" -o json events --follow >"$dir/follow" &
  follower=$!
}

# --- Processes -----------------------------------------------------------------------------------

# In the background not through the function, but ${poolctl[@]}: then $! is poolctl itself.
ctl() { "${poolctl[@]}" "$@"; }

start_coordinator() {
  "$BIN/coordinatord" --pool "$pool" --dir "$dir/pool" --max-backends "$max_backends" \
    --busy-timeout "$busy_timeout" --idle-timeout "$idle_timeout" --drain-timeout 15s \
    --stop-grace 2s --load-timeout 15s 2>>"$dir/coordinatord.log" &
  coordinator=$!
}

# start_worker NAME SEED [FLAG...]: its pid is in worker[NAME], its lines in NAME.log.
start_worker() {
  local name=$1 seed=$2
  shift 2
  "$BIN/demo_worker" --pool "$pool" --dir "$dir/pool" --name "$name" --seed "$seed" \
    --models chat=2,code=1 --models vision=2,speech=1 --tag-prefix "$name-" \
    --requests-per-second 10 --request-time 100ms --memory 24MiB --load-time 200ms \
    --backend "$BIN/demo_backend" --backend-output "$dir/backends.log" --duration 3m --log "$@" \
    >"$dir/$name.log" 2>&1 &
  worker[$name]=$!
  printf '%s' "$name" >"$dir/names/$!"
}

# Reports nothing of how it ended, as bash does for a process that was killed.
reap() { wait "$1" 2>/dev/null; }

# The processes of this pool's backends: files /proc/PID/environ.
backend_environs() { grep -lsz "^MODELPOOL_BACKEND=$uuid/" "$@" || :; }

# All processes of the demo: backends and what poolserve started have inherited this.
own_environs() { grep -lsxzF "MODELPOOL_DEMO=$dir" /proc/[0-9]*/environ || :; }

# Independent of the pool: counts backend processes from outside, all the time. A scan takes a
# while, so of what it found only those count as there at once that live when it is over.
observe() {
  local samples=0 most=0 found=() told=0
  trap 'told=1' TERM
  while ((!told)); do
    mapfile -t found < <(backend_environs /proc/[0-9]*/environ)
    if ((${#found[@]} > most)); then
      mapfile -t found < <(backend_environs "${found[@]}")
      if ((${#found[@]} > most)); then most=${#found[@]}; fi
    fi
    samples=$((samples + 1))
    sleep 0.01
  done
  printf '%d %d\n' "$most" "$samples" >"$dir/observed"
}

clean_up() {
  local code=$? pids environ
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  mapfile -t pids < <(jobs -p)
  # Stopped ones end too. The coordinator with the others: nothing has to be judged any more.
  if ((${#pids[@]} > 0)); then
    kill -KILL "${pids[@]}" 2>/dev/null
    wait "${pids[@]}" 2>/dev/null
  fi
  if [[ -n $dir ]]; then
    for environ in $(own_environs); do
      environ=${environ#/proc/}
      kill -KILL "${environ%/environ}" 2>/dev/null
    done
  fi
  if [[ -n $dir ]]; then
    if ((code == 1)); then show_logs; fi  # not when interrupted
    rm -rf "$dir"
  fi
  exit "$code"
}

# --- Waiting -------------------------------------------------------------------------------------

# until_true COMMAND...: false if it is not so in time.
until_true() {
  local until=$((SECONDS + patience_s))
  until "$@"; do
    if [[ -n $coordinator ]] && ! kill -0 "$coordinator" 2>/dev/null; then
      fail "coordinatord ended by itself"
    fi
    if ((SECONDS >= until)); then return 1; fi
    sleep 0.05
  done
}

mark() { from=$(($(wc -l <"$dir/events") + 1)); }  # events before are past
has_event() { event=$(tail -n +"$from" "$dir/events" | grep -m1 -E "$1"); }
# await_event REGEX: the first one since the mark is in `event` then.
await_event() { until_true has_event "$1"; }

# await_state MODEL STATE; in the background, so that a signal to this script is not kept waiting.
await_state() {
  "${poolctl[@]}" wait "$1" --state "$2" --timeout "${patience_s}s" 2>>"$dir/poolctl.log" &
  wait $!
}

coordinator_is_alive() { ctl -o json status 2>/dev/null | grep -q '"alive": true'; }

# A line for each backend: MODEL STATE PID LEASES.
backends() {
  ctl -o json list | tr -d ' \n' |
    grep -oE '"model":"[^"]*","state":"[^"]*","pid":[^,]*,"address":[^,]*,"in_flight":[0-9]+' |
    sed -E 's/"model":"([^"]*)","state":"([^"]*)","pid":([^,]*),.*:([0-9]+)$/\1 \2 \3 \4/' || :
}
backends_are() { [[ $(backends | sed -n 's/^\([^ ]*\) ready .*/\1/p' | sort | paste -sd ' ') == "$*" ]]; }
backend_pids() { backends | sed -E 's/^([^ ]*) [^ ]* ([^ ]*) .*/\1 \2/' | sort | paste -sd ' '; }
drained() { backends | grep -m1 -E ' evicting [0-9]+ [1-9]'; }

leases_of() { ctl -o json leases | grep -c "\"worker_pid\": $1," || :; }
has_tag() { ctl -o json leases | grep -q "\"tag\": \"$1\""; }

count() { cat "${logs[@]}" | grep -cE "$1" || :; }  # lines of the workers' logs
pairs() { cat "${logs[@]}" | grep -oE '^[A-Z] answered [a-z]+' | sort -u | wc -l; }
has_pairs() { (($(pairs) >= $1)); }
has_answers() { (($(count ' answered ') >= $1)); }

. tools/lib/demo_door.sh

# --- Scenes --------------------------------------------------------------------------------------

share_loads() {
  heading "three workers send requests for two models"
  mark
  start_worker A 1
  start_worker B 2 --hang-once speech
  start_worker C 3
  if ! until_true has_pairs 6 || ! until_true has_answers 90; then
    miss sharing "the workers were not served"
    return
  fi
  say "$(count ' answered ') requests are answered, by backends that were loaded $(count ' loaded [a-z]+:') times:"
  ctl list | sed 's/^/    /'
}

drain_for_room() {
  heading "they want two other models, while two shells hold leases on these"
  # One real request after the other, under one lease, until told to stop.
  # shellcheck disable=SC2016
  local model shell=() hold='until [[ -e $0 ]]; do
    exec 3<>"/dev/tcp/${MODELPOOL_ADDRESS/://}"
    printf "GET /slow?ms=200 HTTP/1.0\r\n\r\n" >&3
    grep -q "\"pid\"" <&3 || exit 1
  done'
  mark
  for model in chat code; do
    "${poolctl[@]}" lease "$model" --tag "shell-$model" -- bash -c "$hold" "$dir/release" \
      2>>"$dir/poolctl.log" &
    shell+=($!)
  done
  if ! until_true has_tag shell-chat || ! until_true has_tag shell-code; then
    miss drain "the shells got no leases"
    return
  fi
  kill -USR1 "${worker[@]}"
  local victim='' held='' pid closed_us=${EPOCHREALTIME/./} waited
  if until_true drained >/dev/null; then
    held=$(drained) || :
    victim=${held%% *}
    say "$victim is closed to new requests; its lease is not cut, and nothing is loaded yet:"
    ctl list | sed 's/^/    /'
    sleep 0.7  # long enough to be looked at
    if [[ -z $victim ]] || ! backends | grep -qE "^$victim evicting [0-9]+ [1-9]"; then victim=''; fi
  fi
  if has_event '"kind":"(evicted|killed)"'; then victim=''; fi
  say "the shells end"
  waited=$(ms_text $(((${EPOCHREALTIME/./} - closed_us) / 1000)))
  touch "$dir/release"
  local uncut=1
  for pid in "${shell[@]}"; do wait "$pid" || uncut=0; done
  if [[ -z $victim ]]; then
    miss drain "no backend stayed closed while its lease ran"
  elif ((!uncut)); then
    miss drain "a request of the shells was cut"
  elif ! await_event "\"kind\":\"evicted\",\"reason\":\"lru\",\"model\":\"$victim\""; then
    miss drain "$victim was not evicted after its lease"
  else
    pass drain "$victim, closed to new requests for $waited until its lease had ended"
  fi
}

kill_hung_request() {
  heading "a request hangs; busy_timeout is $busy_timeout"
  # From the shift on: it may be loaded already.
  if ! await_event '"kind":"loaded".*"model":"speech"'; then
    miss hang "speech was not loaded"
    return
  fi
  if until_true has_tag 'B-[0-9]*-hang'; then
    ctl leases | grep -E 'MODEL|-hang' | sed 's/^/    /' || :
  fi
  if ! await_event '"kind":"killed","reason":"busy".*"tag":"B-[0-9]+-hang"'; then
    miss hang "the hung request was not killed"
    return
  fi
  local tag evidence age cut
  mark
  age=$(ms_text "$(field "$event" age_ms)")
  tag=$(field "$event" tag) evidence=$(field "$event" text)
  cut="B cut speech: $tag: .*lease_lost"
  if [[ $evidence != *state*threads* ]]; then
    miss hang "the kill carries no evidence of what the backend did"
  elif ! until_true grep -q "$cut" "$dir/B.log"; then
    miss hang "worker B was not told that its lease is lost"
  else
    say "$(grep -m1 -o "$cut" "$dir/B.log")"
    pass hang "$tag, in flight for $age; ${evidence%%, syscall*}"
  fi
  await_event '"kind":"loaded".*"model":"speech"' || :  # again, for those who wait for it
}

kill_worker() {
  heading "a worker is killed with SIGKILL"
  if ! until_true has_pairs 12 || ! until_true backends_are speech vision; then
    miss worker_death "the workers did not come to use all four models"
    return
  fi
  local pid=${worker[C]} leases until=$((SECONDS + patience_s)) before
  # Stopped first, so that what it holds at its death is known.
  while :; do
    kill -STOP "$pid"
    leases=$(leases_of "$pid")
    if ((leases > 0)) && backends_are speech vision; then break; fi
    kill -CONT "$pid"
    if ((SECONDS >= until)); then
      miss worker_death "worker C never held a lease"
      return
    fi
    sleep 0.03
  done
  before=$(backend_pids)
  say "worker C, pid $pid, holds $leases of the leases"
  mark
  kill -KILL "$pid"
  reap "$pid" || :
  unset 'worker[C]'
  if ! await_event "\"kind\":\"worker_died\".*\"worker_pid\":$pid,"; then
    miss worker_death "nobody noticed that worker C died"
  elif [[ $(field "$event" count) != "$leases" || $(leases_of "$pid") != 0 ]]; then
    miss worker_death "worker C held $leases leases, cleared: $(field "$event" count)"
  elif [[ $(backend_pids) != "$before" ]]; then
    miss worker_death "its death changed the backends: $before, then $(backend_pids)"
  else
    pass worker_death "worker_died, $leases cleared; the backends stayed"
  fi
}

kill_coordinator() {
  heading "the coordinator is killed with SIGKILL"
  local before answered during
  if ! until_true backends_are speech vision; then
    miss coordinator_death "the backends were not loaded"
    return
  fi
  before=$(backend_pids)
  kill -KILL "$coordinator"
  reap "$coordinator" || :
  coordinator=''
  answered=$(count ' answered ')
  if ! until_true has_answers $((answered + 20)) || coordinator_is_alive; then
    miss coordinator_death "requests were not answered without a coordinator"
  fi
  during=$(($(count ' answered ') - answered))
  say "without it: $during requests answered, backends $(backend_pids)"
  mark
  start_coordinator
  if ! await_event '"kind":"recovered"'; then
    miss coordinator_death "no new coordinator continued"
  elif [[ $(backend_pids) != "$before" ]]; then
    miss coordinator_death "the backends changed: $before, then $(backend_pids)"
  else
    pass coordinator_death "the same backends before and after; $during requests meanwhile"
  fi
}

evict_idle() {
  heading "the workers end; idle_timeout is $idle_timeout"
  local name model uncut=1
  mark
  kill -TERM "${worker[@]}"
  for name in "${!worker[@]}"; do
    wait "${worker[$name]}" || uncut=0
    unset "worker[$name]"
  done
  if ((!uncut)); then
    miss idle "a worker did not end in order"
    return
  fi
  for name in A B; do
    local summary errors
    summary=$(tail -n 1 "$dir/$name.log")
    errors=${summary#*\"errors\":}
    say "$name: $(field "$summary" requests) requests, $(field "$summary" on_shared_loads) of them" \
      "on what others loaded; loads: $(field "$summary" loads); errors: ${errors%\}}"
  done
  for model in vision speech; do
    if ! await_event "\"kind\":\"evicted\",\"reason\":\"idle\",\"model\":\"$model\"" ||
      ! await_state "$model" gone; then
      miss idle "$model was not evicted"
      return
    fi
  done
  pass idle "vision and speech, by the new coordinator, $(ms_text "$(field "$event" age_ms)") after their last use"
}

judge_sharing() {
  local loads pairs answered shared
  loads=$(grep -c '"kind":"loaded"' "$dir/events") || :
  pairs=$(pairs) answered=$(count ' answered ') shared=$(count ', loaded elsewhere')
  if ((loads > 0 && loads < pairs && shared > 0)) && has_pairs 12; then
    pass sharing "$loads loads, not $pairs; $shared of $answered requests on what another loaded"
  else
    miss sharing "$loads loads for $pairs pairs of worker and model, $shared requests shared"
  fi
}

judge_limit() {
  local most=0 samples=0
  kill -TERM "$observer"
  wait "$observer" || :
  read -r most samples <"$dir/observed" || :
  if ((samples > 0 && most == max_backends)); then
    pass limit "$most at most, in $samples looks into /proc from outside"
  else
    miss limit "$most at most, in $samples looks"
  fi
}

judge_consistency() {
  if ctl check >"$dir/check.log" 2>&1; then
    pass consistent "poolctl check has no finding"
  else
    miss consistent "poolctl check: $(head -n 1 "$dir/check.log")"
  fi
}

summarise() {
  local show lacking=''
  heading "seen, in $SECONDS s"
  for show in "${shows[@]}"; do
    if [[ -n ${seen[$show]-} && -z ${missed[$show]-} ]]; then
      printf '  %sPASS%s  %-40s %s\n' "$green" "$plain" "${title[$show]}" "${seen[$show]}"
    else
      lacking+="${lacking:+; }${title[$show]}"
      printf '  %sFAIL%s  %-40s %s\n' "$red" "$plain" "${title[$show]}" "${missed[$show]-not reached}"
    fi
  done
  if [[ -z $lacking ]]; then return; fi
  printf '\nunable to show: %s\n' "$lacking" >&2
  return 1
}

show_logs() {
  local log
  for log in poolserve streams coordinatord backends poolctl; do
    if [[ ! -s $dir/$log.log ]]; then continue; fi
    printf '\nthe end of %s.log:\n' "$log"
    tail -n 25 "$dir/$log.log"
  done >&2
}

# --- The demo ------------------------------------------------------------------------------------

dir='' poolctl=() logs=() uuid='' coordinator='' observer='' follower='' shower='' event='' from=1
declare -A worker=()

for program in coordinatord poolctl poolserve demo_worker demo_backend; do
  [[ -x ${BIN:?is to name the directory of the programs}/$program ]] ||
    fail "$BIN/$program is missing; run tools/demo, which builds it"
done
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
dir=$(mktemp -d /dev/shm/modelpool-demo.XXXXXX)
mkdir -m 700 "$dir/pool"
mkdir "$dir/names" "$dir/streams"
export MODELPOOL_DEMO=$dir
export XDG_STATE_HOME=$dir/state  # what backends write is kept there
logs=("$dir/A.log" "$dir/B.log" "$dir/C.log")
touch "$dir/poolserve.log" "${logs[@]}"
SECONDS=0

poolctl=("$BIN/poolctl" --pool door --dir "$dir/pool")
one_url
kill_door_worker
kill_door_master
reload_door
end_door

poolctl=("$BIN/poolctl" --pool "$pool" --dir "$dir/pool")
heading "coordinatord --max-backends $max_backends --busy-timeout $busy_timeout --idle-timeout $idle_timeout"
start_coordinator
if ! until_true coordinator_is_alive; then
  fail "coordinatord does not start"
fi
uuid=$(field "$(ctl -o json status | tr -d ' \n')" uuid)
observe &
observer=$!
follow_events

share_loads
drain_for_room
kill_hung_request
kill_worker
kill_coordinator
evict_idle
judge_sharing
judge_limit
judge_consistency
summarise
