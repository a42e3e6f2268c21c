#!/usr/bin/env bash
# The built examples, unmodified, while the kernel fails under them: strace answers system calls in its place.
#
#   tests/inject.sh DIRECTORY                     the chosen cases; DIRECTORY has `echo`, `relay` and `frames`
#   tests/inject.sh DIRECTORY random N [SEED]     N cases drawn by chance
#
# For each case a server is started with faults to come. A peer is served before they begin; then twelve peers come at
# once, small and bulk; then there must be service again, with the descriptors that it began with, and an end in order.
# There are three kinds of fault:
#
#   passing    nothing is lost by it but time (EINTR, a full buffer, no memory at the moment): every peer is served whole
#   refusing   somebody cannot be served (no descriptor, no route): each peer is served whole, or what it got was right
#              as far as it came, and it ended; nobody hangs
#
#   starting   the server cannot start: one line that says why, exit code 1
#
# A fault that was never met proves nothing, so a case whose trace shows none fails.
#
# recv with EAGAIN is not among the chosen: each costs a connection up to a second, until epoll is asked again, and the
# sweep of src/sweep tries them all. The read of an eventfd is not either, since nobody reads one; the write that rings it is.
set -uo pipefail

readonly LINES=5
# In bulk everybody sends frames, which are bytes like others to a server that knows of none. `frames` has lengths of two
# bytes here: all ones before a bulky frame, and two blanks before a line, since a shell has trouble with zeros.
readonly BULK_FRAMES=16 BULK_FRAME_BYTES=65535 LINE_BYTES=$((0x2020))
readonly BULK_BYTES=$((BULK_FRAMES * (2 + BULK_FRAME_BYTES)))
# What a late peer sends before it reads: more than the kernel holds on the way, so that pieces queue in the server.
readonly LATE_PARTS=16 LATE_S=1.5
# Nothing here takes so long, but a machine may be slow. A peer that has to be stopped by it hangs.
readonly PATIENCE_S=40
# A server that outlives this script, which was killed, does so no longer.
readonly CASE_S=240
# A server waits 5 s for a peer that it has closed.
readonly SETTLE_TENTHS=100
readonly AT_ONCE=4

# Server, what it is told, fault, the calls that meet it, their faults, how often. The counts are from the start of
# the process: in `when=6..60+3` the sixth call is the first to fail, then every third up to the sixtieth.
readonly CASES='
echo   passing  recvfrom                 EINTR         8+2
echo   passing  recvfrom                 ENOBUFS       8..60+9
echo   passing  recvfrom                 ENOMEM        9..40+11
echo   passing  sendto                   EINTR         6+2
echo   passing  sendto                   EAGAIN        6..80+5
echo   passing  sendto                   ENOBUFS       7..80+9
echo   passing  sendto                   ENOMEM        8..80+13
split  passing  sendmsg,writev           EINTR         1+2
split  passing  sendmsg,writev           EAGAIN        1..40+2
split  passing  sendmsg,writev           ENOBUFS       1..40+3
split  passing  sendmsg,writev           ENOMEM        1..40+4
echo   passing  epoll_wait,epoll_pwait2  EINTR         2+2
echo   passing  accept4                  EINTR         2+2
echo   passing  accept4                  EAGAIN        2..20+2
echo   passing  accept4                  ECONNABORTED  2..30+2
echo   passing  accept4                  EPERM         2..30+3
echo   passing  accept4                  ENOBUFS       2..14+4
echo   passing  accept4                  ENOMEM        3..14+4
echo   refusing accept4                  EMFILE        2..14+3
echo   refusing accept4                  ENFILE        3..9+1
echo   refusing epoll_ctl                ENOSPC        5..12+2
echo   refusing epoll_ctl                ENOMEM        6..9+1
echo   passing  write                    EINTR         1
frames passing  recvfrom                 EINTR         8+2
frames passing  recvfrom                 ENOBUFS       8..60+9
frames passing  sendto                   EAGAIN        6..40+5
frames passing  sendmsg,writev           EAGAIN        1..40+2
frames passing  sendmsg,writev           ENOBUFS       1..40+3
frames refusing epoll_ctl                ENOMEM        6..9+1
relay  passing  recvfrom                 EINTR         14+2
relay  passing  recvfrom                 ENOBUFS       15..80+9
relay  passing  sendto                   EINTR         11+2
relay  passing  sendto                   EAGAIN        11..80+5
relay  passing  sendto                   ENOBUFS       12..80+9
relay  passing  sendmsg,writev           EAGAIN        1..40+2
relay  passing  epoll_wait,epoll_pwait2  EINTR         2+2
relay  refusing setsockopt               ENOBUFS       5..12+2
relay  refusing socket                   EMFILE        4..9+2
relay  refusing socket                   ENOBUFS       5..9+2
relay  refusing connect                  ENOBUFS       3..9+2
relay  refusing connect                  ENETUNREACH   3..9+3
relay  refusing connect                  EADDRNOTAVAIL 4..9+3
relay  refusing connect                  EINTR         3..9+2
relay  refusing epoll_ctl                ENOSPC        7..16+3
relay  refusing accept4                  EMFILE        3..9+2
echo   starting socket                   EMFILE        1
echo   starting bind                     ENOMEM        1
echo   starting listen                   EADDRINUSE    1
echo   starting epoll_create1            EMFILE        1
echo   starting eventfd2                 ENFILE        1
echo   starting eventfd2                 EMFILE        2
echo   starting epoll_ctl                ENOSPC        1
echo   starting epoll_ctl                ENOMEM        2
echo   starting epoll_ctl                ENOSPC        3
'

# ── A peer, as a process of its own so that it can be given up: inject.sh --peer KIND PORT DATA SERVER ───────────
# 0: served whole. 1: turned away, and nothing wrong came. 2: something wrong came.

peer() {
    local kind=$1 port=$2 data=$3 format='%s' line number answer
    [[ $4 == frames ]] && format="  %-$((LINE_BYTES - 1))s"
    # Who is turned away while it writes is to say so.
    trap '' PIPE
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
    if [[ $kind == small ]]; then
        for ((number = 0; number < LINES; number++)); do
            # shellcheck disable=SC2059
            printf -v line "$format" "line $number of $$"
            printf '%s\n' "$line" >&3 || return 1
            IFS= read -r answer <&3 || return 1
            [[ $answer == "$line" ]] || return 2
        done 2>/dev/null
        return 0
    fi
    local parts=1
    [[ $kind == late ]] && parts=$LATE_PARTS
    stream() {
        local part
        for ((part = 0; part < parts; part++)); do cat "$data" || return; done
    }
    stream >&3 2>/dev/null &
    local writer=$! difference
    [[ $kind == late ]] && sleep "$LATE_S"
    difference=$(head -c $((parts * BULK_BYTES)) <&3 2>/dev/null | LC_ALL=C cmp - <(stream 2>/dev/null) 2>&1)
    local compared=$?
    exec 3>&-
    kill "$writer" 2>/dev/null
    wait "$writer" 2>/dev/null
    ((compared == 0)) && return 0
    # What came is the beginning of what was sent.
    [[ $difference == *EOF* ]] && return 1
    return 2
}

serve_one() { # kind
    timeout -k 1 "$PATIENCE_S" bash "$0" --peer "$1" "$port" "$data" "$program"
}

# ── A case ──────────────────────────────────────────────────────────────────────────────────────────────────────

wrong() {
    printf 'WRONG: %s\n' "$1"
    failed=1
}

# Kills the server if it is still there by then; `$!` is to be killed if it is not to be.
kill_after() { # seconds
    # A pipe that stays empty: a sleep would be a process that outlives what it was for.
    (exec {empty}<> <(:) && ! read -r -t "$1" -u "$empty" && kill -KILL "$server") >/dev/null 2>&1 &
}

# Starts a server under strace, which is its grandchild: `$!` is the server, and its end is the server's.
start() { # server calls error when
    local file=$1 further=()
    [[ $1 == split ]] && file=echo && further=(--split)
    [[ $1 == relay ]] && further=("127.0.0.1:$upstream_port")
    [[ $1 == frames ]] && further=(--header u16be)
    local only=()
    # Those that ring a bell, and no other writes.
    [[ $2 == write ]] && only=(-P 'anon_inode:[eventfd]')
    : >"$here/said"
    strace -D -o "$here/trace" "${only[@]}" -e trace="$2" -e inject="$2:error=$3:when=$4" \
        "$directory/$file" 127.0.0.1:0 "${further[@]}" >"$here/said" 2>"$here/complained" &
    server=$!
    kill_after "$CASE_S"
    guard=$!
}

# Waits until it says where it listens.
listening() {
    local tenth
    for ((tenth = 0; tenth < SETTLE_TENTHS * 2; tenth++)); do
        port=$(sed -n 's/^listening on .*://p' "$here/said")
        [[ -n $port ]] && return 0
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

descriptors() {
    local open=("/proc/$server/fd/"*)
    printf '%d' ${#open[@]}
}

# Twelve at once, while calls fail.
serve_many() { # fault calls
    local kind pids=() pid status peers=(small bulk small small bulk small small bulk small small bulk small)
    # Several pieces go out in one call only where they had to wait.
    [[ $2 == sendmsg* ]] && peers=(late small small small small late small small small small small late)
    for kind in "${peers[@]}"; do
        serve_one "$kind" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid"
        status=$?
        case $status in
        0) served=$((served + 1)) ;;
        1) [[ $1 == refusing ]] || wrong 'a peer was turned away' ;;
        2) wrong 'a peer was sent something else than its own' ;;
        *) wrong 'a peer hangs' ;;
        esac
    done
}

# When the last fault has been met, for which some more may have to be turned away.
serve_again() { # fault
    local try
    for ((try = 0; try < 10; try++)); do
        [[ $1 == refusing ]] && serve_one small
    done
    serve_one small || wrong 'no service afterwards'
    serve_one bulk || wrong 'no service in bulk afterwards'
}

# As soon as everybody has gone, it holds what it held.
settle() { # descriptors before
    local tenth
    for ((tenth = 0; tenth < SETTLE_TENTHS; tenth++)); do
        (($(descriptors) == $1)) && return
        sleep 0.1
    done
    wrong "$(descriptors) descriptors, and $1 before"
}

end() { # expected exit code
    local giving_up status
    kill_after "$PATIENCE_S"
    giving_up=$!
    wait "$server"
    status=$?
    kill "$giving_up" "$guard" 2>/dev/null
    wait "$giving_up" "$guard" 2>/dev/null
    ((status == $1)) || wrong "it ended with $status"
}

run_case() { # server fault calls error when
    local failed=0 served=0 before port server guard program=$1
    here=$(mktemp -d -p "$work")
    start "$1" "$3" "$4" "$5"
    if [[ $2 == starting ]]; then
        end 1
        [[ ! -s $here/said && $(wc -l <"$here/complained") == 1 ]] || wrong "$(cat "$here/said" "$here/complained")"
    elif listening; then
        before=$(descriptors)
        serve_one small || wrong 'no service before'
        serve_many "$2" "$3"
        serve_again "$2"
        settle "$before"
        kill -TERM "$server" 2>/dev/null
        end 0
    else
        wrong "it does not listen: $(cat "$here/complained")"
        kill -KILL "$server" 2>/dev/null
        end 137
    fi
    local met
    met=$(grep -c '(INJECTED)' "$here/trace")
    ((met > 0)) || wrong 'the fault was never met'
    # A fault costs at most the peer whom it met.
    [[ $2 == refusing ]] && ((12 - served > met)) && wrong "$((12 - served)) were turned away for $met faults"
    printf '%-6s %-8s %-24s %-13s %-10s met %4d times, %2d of 12 served during it%s\n' \
        "$@" "$met" "$served" "$( ((failed == 0)) || printf '   FAILED')"
    return "$failed"
}

# Runs cases from stdin, several at once, and gives each one's lines in one piece.
run_cases() {
    local line cases=() running=() all=0 bad=0 pid
    while read -r line; do
        [[ -n $line ]] && cases+=("$line")
    done
    for line in "${cases[@]}"; do
        if ((${#running[@]} == AT_ONCE)); then
            wait "${running[0]}" || bad=$((bad + 1))
            running=("${running[@]:1}")
        fi
        # The words of a case are separate arguments.
        # shellcheck disable=SC2086
        (output=$(run_case $line 2>&1) && failed=0 || failed=1 && printf '%s\n' "$output" && exit "$failed") &
        running+=($!)
        all=$((all + 1))
    done
    for pid in "${running[@]}"; do
        wait "$pid" || bad=$((bad + 1))
    done
    printf '%d cases, %d failed\n' "$all" "$bad"
    ((bad == 0))
}

# ── The whole ───────────────────────────────────────────────────────────────────────────────────────────────────

# Faults that any number of calls may meet at any time, by the server and the kind of fault.
readonly KINDS='
echo   passing  recvfrom EINTR ENOBUFS ENOMEM
echo   passing  sendto EINTR EAGAIN ENOBUFS ENOMEM
split  passing  sendmsg,writev EINTR EAGAIN ENOBUFS ENOMEM
echo   passing  accept4 EINTR EAGAIN ECONNABORTED EPROTO EPERM ENOBUFS ENOMEM
echo   passing  epoll_wait,epoll_pwait2 EINTR
echo   refusing accept4 EMFILE ENFILE
echo   refusing epoll_ctl ENOSPC ENOMEM
frames passing  recvfrom EINTR ENOBUFS ENOMEM
frames passing  sendmsg,writev EINTR EAGAIN ENOBUFS ENOMEM
relay  passing  recvfrom EINTR ENOBUFS ENOMEM
relay  passing  sendto EINTR EAGAIN ENOBUFS ENOMEM
relay  refusing accept4 EMFILE ENFILE
relay  refusing socket EMFILE ENFILE ENOBUFS ENOMEM
relay  refusing connect EINTR ENOBUFS ENETUNREACH EHOSTUNREACH EADDRNOTAVAIL ETIMEDOUT ECONNREFUSED
relay  refusing epoll_ctl ENOSPC ENOMEM
'

draw_cases() { # how many, seed
    local kinds=() line number words first many
    RANDOM=$2
    while read -r line; do
        [[ -n $line ]] && kinds+=("$line")
    done <<<"$KINDS"
    for ((number = 0; number < $1; number++)); do
        read -ra words <<<"${kinds[RANDOM % ${#kinds[@]}]}"
        # Late enough that the server has started and the first peer is served, early enough to be met.
        first=$((8 + RANDOM % 4)) many=$((3 + RANDOM % 30))
        [[ ${words[0]} == relay && ${words[2]} == [rs]* ]] && first=$((first + 7))
        [[ ${words[2]} == sendmsg,writev ]] && first=1
        # One or two to a peer: the peers that come during it are to meet all of them.
        [[ ${words[1]} == refusing ]] && first=$((6 + RANDOM % 3)) many=$((3 + RANDOM % 8))
        printf '%s %s %s %s %d..%d+%d\n' "${words[0]}" "${words[1]}" "${words[2]}" \
            "${words[3 + RANDOM % (${#words[@]} - 3)]}" "$first" $((first + many)) $((1 + RANDOM % 4))
    done
}

if [[ ${1-} == --peer ]]; then
    peer "$2" "$3" "$4" "$5"
    exit
fi

if ! command -v strace >/dev/null || ! strace -o /dev/null true 2>/dev/null; then
    printf 'SKIPPED tests/inject.sh: strace is missing, or may not trace here\n' >&2
    [[ ${CI-} != true ]]
    exit
fi
directory=${1:?the directory of the built examples}
work=$(mktemp -d)
data=$work/data
for ((frame = 0; frame < BULK_FRAMES; frame++)); do
    printf '\xff\xff'
    head -c "$BULK_FRAME_BYTES" /dev/urandom
done >"$data"
"$directory/echo" 127.0.0.1:0 >"$work/upstream" &
upstream=$!
trap 'kill "$upstream" 2>/dev/null; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    upstream_port=$(sed -n 's/^listening on .*://p' "$work/upstream")
    [[ -n $upstream_port ]] && break
    sleep 0.05
done
[[ -n $upstream_port ]] || { printf 'echo does not start\n' >&2; exit 1; }

if [[ ${2-} == random ]]; then
    seed=${4:-$RANDOM}
    printf '%d cases, seed %d\n' "$3" "$seed"
    draw_cases "$3" "$seed" | run_cases
else
    run_cases <<<"$CASES"
fi
