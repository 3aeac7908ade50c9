#!/bin/sh
# Instructions that a client executes for one unary call, by callgrind: servers left out, start-up
# subtracted. Needs valgrind.
#
#   benches/callgrind.sh                          all arms at 1 and 64 callers
#   ARMS="by-hand evenkeel" CALLERS=64 benches/callgrind.sh
set -eu

cd "$(dirname "$0")/.."
ARMS=${ARMS:-"by-hand bare evenkeel-round-robin evenkeel"}
CALLERS=${CALLERS:-"1 64"}
FEW=${FEW:-1280}
MANY=${MANY:-3840}

binary=${BINARY:-$(cargo bench --no-run --bench grpc_instructions 2>&1 |
    sed -n "s/.*Executable.*(\(.*\))/\1/p")}
test -x "$binary"

collected() { # arm callers calls
    valgrind --tool=callgrind --toggle-collect='*server_turn*' --collect-atstart=yes \
        --callgrind-out-file="${OUT:-/dev/null}" "$binary" "$1" "$2" "$3" 2>&1 |
        sed -n 's/.*Collected *: *\([0-9]*\).*/\1/p'
}

printf '| client | callers | instructions per call | against by-hand |\n|---|---|---|---|\n'
for callers in $CALLERS; do
    base=
    for arm in $ARMS; do
        few=$(collected "$arm" "$callers" "$FEW")
        many=$(collected "$arm" "$callers" "$MANY")
        each=$(((many - few) / (MANY - FEW)))
        base=${base:-$each}
        printf '| %s | %s | %s | %s |\n' "$arm" "$callers" "$each" \
            "$(awk "BEGIN { printf \"%.3f\", $each / $base }")"
    done
done
