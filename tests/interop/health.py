"""The health services of gRPC's Python and JavaScript: evenkeel's channel must follow what they say.

A server of each maker, asked for the service shop.Cart. Each is made serving, not serving and serving again, says
UNKNOWN, and ends. Whatever goes wrong, nothing is left running.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

CHECKED, NODE_MODULES = sys.argv[1:]
SERVICE = "shop.Cart"
PATIENCE_SECONDS = 30


class Python:
    name = "grpcio-health-checking"

    def __init__(self):
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.say("NOT_SERVING")
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def say(self, status):
        value = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        self.health.set(SERVICE, value)

    def end(self):
        self.server.stop(None).wait(PATIENCE_SECONDS)


class JavaScript:
    name = "grpc-health-check"

    def __init__(self):
        self.process = subprocess.Popen(
            ["node", "tests/interop/health_server.cjs", SERVICE],
            env={**os.environ, "NODE_PATH": NODE_MODULES},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())

    def say(self, status):
        self.process.stdin.write(status + "\n")
        self.process.stdin.flush()

    def end(self):
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)


class Client:
    def __init__(self, uri):
        self.uri = uri
        self.process = subprocess.Popen(
            [CHECKED, SERVICE, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line).get(self.uri, "not known yet"))

    def until(self, *wanted):
        seen = []
        while not seen or seen[-1] not in wanted:
            try:
                seen.append(self.lines.get(timeout=PATIENCE_SECONDS))
            except queue.Empty:
                sys.exit(f"{self.uri} never was {' or '.join(wanted)}; it was {seen}")
        return seen

    def close(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)


def follow(maker, server, client):
    first = client.until("NOT_SERVING")
    if "READY" in first:
        sys.exit(f"{maker.name}: a call was let through before the first answer: {first}")
    for status, shown in [
        ("SERVING", "READY"),
        ("NOT_SERVING", "NOT_SERVING"),
        ("SERVING", "READY"),
        ("UNKNOWN", "UNKNOWN"),
        ("SERVING", "READY"),
    ]:
        server.say(status)
        client.until(shown)
    server.end()
    client.until("IDLE", "CONNECTING", "TRANSIENT_FAILURE")


# Nothing here takes a tenth of this; whoever hangs ends here, and its servers with it.
threading.Timer(10 * PATIENCE_SECONDS, os._exit, [1]).start()
for maker in [Python, JavaScript]:
    server = maker()
    client = Client(f"http://127.0.0.1:{server.port}")
    try:
        follow(maker, server, client)
        client.close()
    finally:
        client.process.kill()
        server.end()
    print(f"{maker.name}: followed through seven states", flush=True)
os._exit(0)
