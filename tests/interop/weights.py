"""Servers report their load; evenkeel and gRPC's C core must spread calls alike by it.

Two servers say that they are 0.1 and 0.9 busy, at as many requests a second: by gRFC A58 their weights are 9
to 1. Those of grpc-js say so in each answer, or beside the calls; evenkeel's beside the calls, and in its
answers the contrary.
"""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

DEMO, REPORTERS, NODE_MODULES = sys.argv[1:]
METHOD = "/evenkeel.demo.v1.Demo/Echo"
GRPC_JS = ["node", "tests/interop/orca_servers.cjs"]
# The blackout of gRFC A58 is 10 s from the first report; until then all weights are alike.
SETTLED_SECONDS = 15
COUNTED_SECONDS = 10


class Servers:
    def __init__(self, command):
        self.process = subprocess.Popen(
            command,
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


def by_evenkeel(who, command, out_of_band):
    servers = Servers(command)
    uris = ",".join(f"http://127.0.0.1:{port}" for port in servers.ports)
    seconds = SETTLED_SECONDS + COUNTED_SECONDS + 3
    demo = subprocess.Popen(
        [DEMO, "--endpoints", uris, "--policy", "weighted_round_robin", "--rps", "20",
         "--seconds", str(seconds), "--quiet", "--json", *(["--out-of-band", "1"] if out_of_band else [])],
        stdout=subprocess.PIPE,
        text=True,
    )
    measure(f"evenkeel, {who}", servers)
    output, _ = demo.communicate(timeout=60)
    failed = json.loads(output)["failed"]
    if demo.returncode != 0 or failed:
        sys.exit(f"evenkeel, {who}: {failed} calls failed")
    servers.close()


def by_grpc(who, command, out_of_band):
    who = f"gRPC C core, {who}"
    servers = Servers(command)
    # The update period is 1 s by default, as evenkeel's.
    settings = {"enableOobLoadReport": True, "oobReportingPeriod": "1s"} if out_of_band else {}
    config = {"loadBalancingConfig": [{"weighted_round_robin": settings}]}
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in servers.ports)
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_http_proxy", 0),
        # By default it is the whole target, and with its comma no authority: h2 refuses such calls.
        ("grpc.default_authority", "localhost"),
    ]
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
        measure(who, servers)
    finally:
        stop.set()
        for thread in callers:
            thread.join(30)
        channel.close()
    if failures:
        sys.exit(f"{who}: {len(failures)} calls failed, such as {failures[0]}")
    servers.close()


def main():
    beside = [*GRPC_JS, "out-of-band"]
    runs = [
        (by_evenkeel, "grpc-js reports in answers", GRPC_JS, False),
        (by_grpc, "grpc-js reports in answers", GRPC_JS, False),
        (by_evenkeel, "grpc-js reports beside the calls", beside, True),
        (by_grpc, "grpc-js reports beside the calls", beside, True),
        (by_evenkeel, "evenkeel reports beside the calls", [REPORTERS], True),
        (by_grpc, "evenkeel reports beside the calls", [REPORTERS], True),
    ]
    # They mostly wait, so all together.
    with ThreadPoolExecutor(len(runs)) as pool:
        results = [pool.submit(run, *how) for run, *how in runs]
    for result in results:
        result.result()


if __name__ == "__main__":
    main()
