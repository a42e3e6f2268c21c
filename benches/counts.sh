#!/usr/bin/env bash
# What a message, a connection and an idle connection cost, in instructions, system calls and bytes:
#
#   benches/counts.sh                    all of it, one minute
#   benches/counts.sh calls memory       some of: instructions calls memory slow
#
# These are counts and no times, so they hardly depend on the machine or on who else uses it. (Of a relayed stream they
# do, since it is a matter of timing how much comes at once.) Each is the difference of two runs of different length,
# divided by what the longer one did more: whatever both do once cancels out.
#
#        load ──► server under valgrind or strace                load ──► relay under either ──► echo, or load's sink
#
# It needs Rust; valgrind for instructions, strace for system calls; what is missing is said and left out. Everything
# happens on 127.0.0.1, on ports that the kernel chooses. It prints a table in Markdown; docs/costs.md explains it.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never LC_ALL=C

# Connections to be idle at one time: what fits the kernel's default range of ports towards one server. Fewer, if
# there are not as many descriptors.
idle_connections=19000
# Descriptors that a server has beside its connections, and as many again in reserve.
spare_descriptors=100
# How long anything that was started may take to say so, in tenths of a second.
patience=600

main() {
    local chosen=("$@") section
    ((${#chosen[@]} > 0)) || chosen=(instructions calls memory slow)
    for section in "${chosen[@]}"; do
        case $section in
        instructions | calls | memory | slow) ;;
        *) fail "there is no section '$section': instructions calls memory slow" ;;
        esac
    done
    work=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    build
    # As many descriptors as this user may have; the servers and the load inherit it.
    ulimit -n "$(ulimit -H -n)" || true
    describe_machine
    printf '| figure | to reach | measured | what ran |\n|---|---|---|---|\n'
    for section in "${chosen[@]}"; do
        "count_$section"
    done
}

# ── What is counted ───────────────────────────────────────────────────────────────────────────────────────────────

count_instructions() {
    have valgrind || return 0
    server=("$echo" 127.0.0.1:0)
    per instructions 100 1100 100 echo PORT --connections 100 --rounds ROUNDS --size 64
    row 'user instructions per 64 B message, 100 connections, echo that borrows' '≤ 150'
    server=("$echo" --split 127.0.0.1:0)
    per instructions 100 1100 100 echo PORT --connections 100 --rounds ROUNDS --size 64
    row "the same, echo that passes on \`input.split()\`" '≤ 300'
    server=("$echo" 127.0.0.1:0)
    per instructions 200 2200 1 churn PORT --count ROUNDS --size 64
    row 'user instructions per connection (accept, echo, close)' '≤ 1,500'

    start upstream "$echo" 127.0.0.1:0
    server=("$relay" 127.0.0.1:0 "127.0.0.1:$port")
    per instructions 100 2100 20 echo PORT --connections 20 --rounds ROUNDS --size 64
    row 'relay, user instructions per 64 B round trip, 20 connections' '≤ 500'
    finish upstream
}

count_calls() {
    have strace || return 0
    server=("$echo" 127.0.0.1:0)
    per calls 100 1100 50 echo PORT --connections 50 --rounds ROUNDS --size 64
    row 'system calls beside epoll_wait per 64 B message' '2'
    per calls 20 220 800 echo PORT --connections 50 --rounds ROUNDS --size 1024 --depth 16
    row 'system calls beside epoll_wait per 1 KiB message, 16 in flight' '≤ 0.13'
    per calls 100 1100 1 churn PORT --count ROUNDS --size 64
    row 'system calls beside epoll_wait per connection, peer closes first' '≤ 7'

    find_free_port
    server=("$relay" 127.0.0.1:0 "127.0.0.1:$free_port")
    per calls 128 1152 1 bulk PORT --sink "$free_port" --mib ROUNDS
    row 'relay, system calls beside epoll_wait per MiB of one stream' '≤ 40'
}

count_memory() {
    local most=$(($(ulimit -n) - spare_descriptors))
    start echo "$echo" 127.0.0.1:0
    hold_idle echo $((most < idle_connections ? most : idle_connections))
    row "user memory per idle connection, $held open" '≤ 256 B' "$per_open B" "$held_by"
    row 'the same after they have closed, per slot of the peak' '≤ 32 B' "$per_closed B" "$held_by"

    # The echo is the relay's upstream now. A pair takes two of the relay's descriptors.
    start relay "$relay" 127.0.0.1:0 "127.0.0.1:$port"
    most=$((most / 2))
    hold_idle relay $((most < idle_connections ? most : idle_connections))
    row "user memory per idle relayed pair, $held open" '≤ 640 B' "$per_open B" "$held_by"
    row 'the same after they have closed, per pair of the peak' '≤ 64 B' "$per_closed B" "$held_by"
    finish relay
    finish echo
}

# The reader of a relayed stream stops half-way: what was written meanwhile has to wait at the writer.
count_slow() {
    local mib=1024 seconds=10 before now most=0 last ran
    find_free_port
    start relay "$relay" 127.0.0.1:0 "127.0.0.1:$free_port"
    before=$(private_bytes "${pids[relay]}")
    ran=(bulk "$port" --sink "$free_port" --mib "$mib" --stop "$seconds")
    launch load "$load" "${ran[@]}"
    await load '^the reader stops$'
    last=$((SECONDS + seconds - 1))
    while ((SECONDS < last)); do
        now=$(private_bytes "${pids[relay]}")
        most=$((now > most ? now : most))
        sleep 0.1
    done
    await load ' bytes lost$'
    end_of load
    finish relay
    row "relay with a reader that stops for $seconds s, 1 GiB pushed: growth; bytes lost" '≤ the marks + 512 kB; 0' \
        "$(((most - before) / 1000)) kB; $(sed -n 's/.* sent, \([0-9]*\) bytes lost$/\1/p' "$work/load.out")" \
        "\`relay\`, \`load bulk --mib $mib --stop $seconds\`; 2 marks of 65,536 B"
}

# ── Counting ──────────────────────────────────────────────────────────────────────────────────────────────────────

# per TOOL SHORT LONG ITEMS LOAD…: sets `each` to what one item costs, where a round has so many ITEMS; `server` is the
# server, and PORT and ROUNDS in the load's arguments are filled in.
per() {
    local tool=$1 short=$2 long=$3 items=$4 first
    shift 4
    "run_$tool" "$short" "$@"
    first=$count
    "run_$tool" "$long" "$@"
    each=$(awk -v n="$((count - first))" -v items="$(((long - short) * items))" 'BEGIN { printf "%.4g", n / items }')
    each_by=$(printf '%s ' "${server[0]##*/}" "${server[@]:1}" | sed 's/ *[^ ]*127[^ ]*//g')
    each_by="\`${each_by% }\`, \`load $(printf '%s ' "$@" | sed "s/PORT //; s/--sink [0-9]* //; s/ROUNDS/$short…$long/; s/ \$//")\`"
}

run_instructions() {
    rm -f "$work/callgrind"
    run_under valgrind --quiet --tool=callgrind --callgrind-out-file="$work/callgrind" -- "$@"
    count=$(sed -n 's/^totals: //p' "$work/callgrind")
}

# With -D the server is our child and strace is not, so it is the server that is told to end; strace writes its table
# when it has.
run_calls() {
    rm -f "$work/calls"
    run_under strace -D -f -c -o "$work/calls" -- "$@"
    wait_until 'the table of strace' grep -q -s ' total$' "$work/calls"
    count=$(awk '$NF ~ /^epoll_p?wait2?$/ || $NF == "total" || $4 !~ /^[0-9]+$/ { next } { n += $4 } END { print n }' \
        "$work/calls")
}

# run_under TOOL… -- ROUNDS LOAD…: a server under a tool, from its start to its end, with one load.
run_under() {
    local tool=()
    while [[ $1 != -- ]]; do
        tool+=("$1")
        shift
    done
    local rounds=$2 arguments
    shift 2
    start server "${tool[@]}" "${server[@]}"
    arguments=("${@//ROUNDS/$rounds}")
    "$load" "${arguments[@]//PORT/$port}" >"$work/load.out"
    finish server
}

# hold_idle SERVER N: sets `per_open` and `per_closed`.
hold_idle() {
    local pid=${pids[$1]} before descriptors open closed
    held=$2
    held_by="\`$1\`, \`load idle --connections $held\`"
    descriptors=$(descriptors_of "$pid")
    # What is allocated for the first connection serves every other one too.
    "$load" churn "$port" --count 50 >"$work/load.out"
    wait_until 'the end of the first connections' has_descriptors "$pid" "$descriptors"
    before=$(private_bytes "$pid")
    launch load "$load" idle "$port" --connections "$held" --hold 3600
    await load ' open$'
    open=$(private_bytes "$pid")
    kill -TERM "${pids[load]}"
    end_of load || true
    wait_until 'the end of all connections' has_descriptors "$pid" "$descriptors"
    closed=$(private_bytes "$pid")
    per_open=$(((open - before) / held))
    per_closed=$(((closed - before) / held))
}

# Memory of its own: pages that no file stands behind. (Private_Dirty would also count the pages of a program that was
# built a moment ago and is not on the disk yet.)
private_bytes() {
    awk '/^Anonymous:/ { print $2 * 1024 }' "/proc/$1/smaps_rollup"
}

descriptors_of() {
    local descriptors=("/proc/$1/fd"/*)
    printf '%d\n' "${#descriptors[@]}"
}

has_descriptors() {
    (($(descriptors_of "$1") <= $2))
}

# ── Programs ──────────────────────────────────────────────────────────────────────────────────────────────────────

# Those that run, by name. They are ended by number, whatever happens.
declare -A pids=()

build() {
    local built
    built=$(cargo build --release --examples --bench load --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    echo=$(grep '/examples/echo$' <<<"$built")
    relay=$(grep '/examples/relay$' <<<"$built")
    load=$(grep '/load-[0-9a-f]*$' <<<"$built")
}

# launch NAME PROGRAM…
launch() {
    local name=$1
    shift
    # What its namesake has said is not to be taken for its own.
    rm -f "$work/$name.out"
    "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null &
    pids[$name]=$!
}

# start NAME SERVER…: sets `port` to where it listens.
start() {
    launch "$@"
    await "$1" '^listening on '
    port=$(sed -n 's/^listening on .*://p' "$work/$1.out")
}

# finish NAME: a server ends in order when it is told to.
finish() {
    kill -TERM "${pids[$1]}"
    end_of "$1"
}

end_of() {
    local pid=${pids[$1]} status=0
    wait "$pid" || status=$?
    unset "pids[$1]"
    # 143 is what SIGTERM does to those who do not listen to it.
    ((status == 0 || status == 143)) || fail "$1 ended with $status" "$work/$1.err"
}

# await NAME LINE: until it has said such a line.
await() {
    wait_until "$1 to say '$2'" has_said "$1" "$2"
}

has_said() {
    grep -q -s -e "$2" "$work/$1.out" && return
    kill -0 "${pids[$1]}" 2>/dev/null || fail "$1 ended too soon" "$work/$1.err"
    return 1
}

# A port that was free a moment ago, for what has to be known before anybody listens there.
find_free_port() {
    start nobody "$echo" 127.0.0.1:0
    free_port=$port
    finish nobody
}

# wait_until WHAT COMMAND…
wait_until() {
    local what=$1 tenths
    shift
    for ((tenths = 0; tenths < patience; tenths++)); do
        "$@" && return
        sleep 0.1
    done
    fail "waited in vain for $what"
}

clean_up() {
    local pid
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || true
    done
    rm -rf "$work"
}

# ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────────────

describe_machine() {
    printf '%s, Linux %s, %s' "$(rustc --version)" "$(uname -r)" "$(uname -m)"
    printf '; at most %s descriptors\n\n' "$(ulimit -n)"
}

# row FIGURE AIM [MEASURED WHAT_RAN]
row() {
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "${3-$each}" "${4-$each_by}"
}

have() {
    command -v "$1" >/dev/null && return
    printf '\nThere is no %s on this machine: what is counted with it is LEFT OUT.\n\n' "$1" >&2
    return 1
}

# fail WHY [LOG]
fail() {
    printf 'counts: %s\n' "$1" >&2
    [[ -z ${2-} ]] || cat "$2" >&2
    exit 1
}

main "$@"
