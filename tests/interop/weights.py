"""Servers in another language report their load; evenkeel and gRPC's C core must spread calls alike by it.

Two grpc-js servers say in each answer that they are 0.1 and 0.9 busy, at as many requests a second: by gRFC
A58 their weights are 9 to 1.
"""

import json
import os
import subprocess
import sys
import threading
import time

import grpc

DEMO, NODE_MODULES = sys.argv[1:]
METHOD = "/evenkeel.demo.v1.Demo/Echo"
# The blackout of gRFC A58 is 10 s; until then all weights are alike.
SETTLED_SECONDS = 13
COUNTED_SECONDS = 10


class Servers:
    def __init__(self):
        self.process = subprocess.Popen(
            ["node", "tests/interop/orca_servers.cjs"],
            env={**os.environ, "NODE_PATH": NODE_MODULES},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports = json.loads(self.read())

    def read(self):
        timer = threading.Timer(30, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            sys.exit("the servers ended")
        return line

    def counts(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.read())

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def measure(who, servers):
    time.sleep(SETTLED_SECONDS)
    servers.counts()
    time.sleep(COUNTED_SECONDS)
    light, busy = servers.counts()
    share = light / max(1, light + busy)
    print(f"{who}: {light} calls to the server at 0.1, {busy} to the one at 0.9: {share:.3f} of them")
    # The order is exact but for the moments of the updates.
    if light + busy < 60 or abs(share - 0.9) > 0.03:
        sys.exit(f"{who}: 0.9 of the calls should go to the server at 0.1")


def by_evenkeel():
    servers = Servers()
    uris = ",".join(f"http://127.0.0.1:{port}" for port in servers.ports)
    seconds = SETTLED_SECONDS + COUNTED_SECONDS + 3
    demo = subprocess.Popen(
        [DEMO, "--endpoints", uris, "--policy", "weighted_round_robin", "--rps", "20",
         "--seconds", str(seconds), "--quiet", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    measure("evenkeel", servers)
    output, _ = demo.communicate(timeout=60)
    failed = json.loads(output)["failed"]
    if demo.returncode != 0 or failed:
        sys.exit(f"evenkeel: {failed} calls failed")
    servers.close()


def by_grpc():
    servers = Servers()
    # The update period is 1 s by default, as evenkeel's.
    config = {"loadBalancingConfig": [{"weighted_round_robin": {}}]}
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in servers.ports)
    options = [("grpc.service_config", json.dumps(config)), ("grpc.enable_http_proxy", 0)]
    channel = grpc.insecure_channel(target, options=options)
    call = channel.unary_unary(METHOD)
    stop = threading.Event()
    failures = []

    def caller():
        while not stop.is_set():
            try:
                call(b"", timeout=10, wait_for_ready=True)
            except grpc.RpcError as error:
                failures.append(error)
            stop.wait(0.05)

    callers = [threading.Thread(target=caller, daemon=True) for _ in range(2)]
    for thread in callers:
        thread.start()
    try:
        measure("gRPC C core", servers)
    finally:
        stop.set()
        for thread in callers:
            thread.join(30)
        channel.close()
    if failures:
        sys.exit(f"gRPC C core: {len(failures)} calls failed, such as {failures[0]}")
    servers.close()


if __name__ == "__main__":
    by_evenkeel()
    by_grpc()
