#!/usr/bin/env bash
# evenkeel beside other makers' clients, servers and proxies, on loopback: the same keys must reach the same
# servers as by Envoy and gRPC's C core; servers that report their load, in JavaScript and evenkeel's own, must get
# the shares that the C core gives them; and the health services of Python and JavaScript must be followed. Installs
# what it needs from PyPI and npm into target/interop. What cannot be installed is skipped, and said.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/target/interop
python=$folder/venv/bin/python
mkdir -p "$folder"

if ! { [ -x "$python" ] || python3 -m venv "$folder/venv"; } ||
  ! "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt; then
  echo "skipped: the packages of tests/interop/requirements.txt could not be installed"
  exit 0
fi
cargo build --release --features serde --example choices
"$python" tests/interop/hashes.py target/release/examples/choices

if ! npm install --silent --no-audit --no-fund --prefix "$folder" @grpc/grpc-js@1.14.7 grpc-health-check@2.1.0; then
  echo "skipped: @grpc/grpc-js and grpc-health-check could not be installed"
  exit 0
fi
cargo build --release --example demo --example reporters --example checked
"$python" tests/interop/weights.py target/release/examples/{demo,reporters} "$folder/node_modules"
"$python" tests/interop/health.py target/release/examples/checked "$folder/node_modules"
