"""Sends keys through real Envoy and real gRPC C core, and compares with evenkeel's choices.

Everything is on loopback; every port is the system's choice; every wait is bounded.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Read by the C core when it is loaded: gRFC A76's request hash key is behind it.
os.environ["GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"] = "true"
import grpc  # noqa: E402

CHOICES = sys.argv[1]
HEADER = "x-key"
KEYS = [f"key-{n}" for n in range(2000)]
WAIT_SECONDS = 30


def ask_evenkeel(policy, ports, weights):
    question = {
        "policy": policy,
        "endpoints": [
            {"address": f"http://127.0.0.1:{port}", "weight": weight}
            for port, weight in zip(ports, weights)
        ],
        "header": HEADER,
        "keys": KEYS,
    }
    done = subprocess.run(
        [CHOICES], input=json.dumps(question), capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    if done.returncode != 0:
        sys.exit(f"choices failed: {done.stderr}")
    return [int(address.rsplit(":", 1)[1]) for address in json.loads(done.stdout)]


class HttpServers:
    """Servers that answer with their port."""

    def __init__(self, count):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one write: two would wait for each other by Nagle's rule.
            wbufsize = -1

            def do_GET(self):
                body = str(self.server.server_address[1]).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(count)]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self.ports = [server.server_address[1] for server in self.servers]

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


def envoy_config(policy, ports, weights, admin):
    return {
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        },
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": {
                                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                                        "stat_prefix": "in",
                                        "route_config": {
                                            "virtual_hosts": [
                                                {
                                                    "name": "all",
                                                    "domains": ["*"],
                                                    "routes": [
                                                        {
                                                            "match": {"prefix": "/"},
                                                            "route": {
                                                                "cluster": "servers",
                                                                "hash_policy": [
                                                                    {"header": {"header_name": HEADER}}
                                                                ],
                                                            },
                                                        }
                                                    ],
                                                }
                                            ]
                                        },
                                        "http_filters": [
                                            {
                                                "name": "envoy.filters.http.router",
                                                "typed_config": {
                                                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                                                },
                                            }
                                        ],
                                    },
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "servers",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    **policy,
                    "load_assignment": {
                        "cluster_name": "servers",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "load_balancing_weight": weight,
                                        "endpoint": {
                                            "address": {
                                                "socket_address": {
                                                    "address": "127.0.0.1",
                                                    "port_value": port,
                                                }
                                            }
                                        },
                                    }
                                    for port, weight in zip(ports, weights)
                                ]
                            }
                        ],
                    },
                }
            ],
        },
        # Envoy needs these to say where it listens.
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }


def envoy_binary():
    import envoy

    return Path(envoy.__file__).parent / "_bin" / "envoy"


class Envoy:
    """A real Envoy in front of the servers."""

    def __init__(self, policy, ports, weights):
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        config = folder / "envoy.json"
        admin = folder / "admin"
        config.write_text(json.dumps(envoy_config(policy, ports, weights, admin)))
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [
                envoy_binary(),
                "--config-path", str(config),
                "--admin-address-path", str(admin),
                "--use-dynamic-base-id",
                "--concurrency", "1",
                "--log-level", "warning",
            ],
            stdout=self.log,
            stderr=self.log,
        )
        self.port = self.wait(admin)

    def wait(self, admin):
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                host, port = admin.read_text().rsplit(":", 1)
                connection = HTTPConnection(host, int(port), timeout=5)
                connection.request("GET", "/ready")
                ready = connection.getresponse()
                ready.read()
                if ready.status == 200:
                    connection.request("GET", "/listeners?format=json")
                    listeners = json.load(connection.getresponse())
                    address = listeners["listener_statuses"][0]["local_address"]
                    return address["socket_address"]["port_value"]
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.05)
        self.log.seek(0)
        sys.exit(f"Envoy did not start: {self.log.read()}")

    def choices(self):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        chosen = []
        for key in KEYS:
            connection.request("GET", "/", headers={HEADER: key})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                sys.exit(f"Envoy answered {answer.status}: {body}")
            chosen.append(int(body))
        connection.close()
        return chosen

    def close(self):
        self.process.terminate()
        self.process.wait(WAIT_SECONDS)
        self.log.close()
        self.folder.cleanup()


class GrpcServers:
    """gRPC servers that answer with their port."""

    def __init__(self, count):
        self.servers, self.ports = [], []
        for _ in range(count):
            server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
            port = server.add_insecure_port("127.0.0.1:0")

            def who(_request, _context, port=port):
                return str(port).encode()

            method = grpc.unary_unary_rpc_method_handler(who)
            handler = grpc.method_handlers_generic_handler("test.Who", {"Am": method})
            server.add_generic_rpc_handlers((handler,))
            server.start()
            self.servers.append(server)
            self.ports.append(port)

    def close(self):
        for server in self.servers:
            server.stop(None).wait(WAIT_SECONDS)


def grpc_choices(ports):
    policy = {"minRingSize": 1024, "maxRingSize": 4096, "requestHashHeader": HEADER}
    service_config = {"loadBalancingConfig": [{"ring_hash_experimental": policy}]}
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    options = [
        ("grpc.service_config", json.dumps(service_config)),
        ("grpc.enable_http_proxy", 0),
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        call = channel.unary_unary("/test.Who/Am")
        return [
            int(call(b"", metadata=((HEADER, key),), timeout=WAIT_SECONDS, wait_for_ready=True))
            for key in KEYS
        ]


def compare(what, other, ours):
    same = sum(a == b for a, b in zip(other, ours))
    used = len(set(other))
    print(f"{what}: {same} of {len(KEYS)} keys alike, over {used} servers")
    if same != len(KEYS) or used < 2:
        sys.exit(f"{what}: evenkeel and the other disagree")


def ours(name, **settings):
    return {"policy": name, "sources": [{"header": HEADER}], **settings}


def against_envoy():
    # Envoy's own bounds; gRPC's are the defaults here.
    ring = ({"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024, "maximum_ring_size": 4096}},
            ours("ring_hash", min_size=1024, max_size=4096))
    maglev = ({"lb_policy": "MAGLEV"}, ours("maglev"))
    small = ({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 251}},
             ours("maglev", table_size=251))
    for weights in ([1] * 3, [1] * 10, [1, 2, 3, 4, 5]):
        servers = HttpServers(len(weights))
        for name, (theirs, mine) in {"ring hash": ring, "Maglev": maglev, "Maglev of 251": small}.items():
            envoy = Envoy(theirs, servers.ports, weights)
            compare(f"Envoy, {name}, weights {weights}", envoy.choices(),
                    ask_evenkeel(mine, servers.ports, weights))
            envoy.close()
        servers.close()


def against_grpc():
    for count in (3, 10):
        servers = GrpcServers(count)
        compare(f"gRPC C core, ring hash, {count} servers", grpc_choices(servers.ports),
                ask_evenkeel(ours("ring_hash"), servers.ports, [1] * count))
        servers.close()


if __name__ == "__main__":
    against_grpc()
    against_envoy()
