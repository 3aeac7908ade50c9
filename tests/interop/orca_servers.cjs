// Two gRPC servers that report their load: utilisation 0.1 and 0.9, as many requests a second. They do it with
// each answer, or, if told "out-of-band", beside the calls alone. Prints their addresses; for each line on stdin, how many calls each has had since the last one.
const grpc = require("@grpc/grpc-js");

const outOfBand = process.argv[2] === "out-of-band";
const same = (bytes) => bytes;

// An EchoReply for an EchoRequest, as bytes: message and payload are fields 1 and 2 there, 2 and 3 here;
// and the count, field 4, is 1.
function echo(request) {
  const parts = [];
  let at = 0;
  while (at < request.length) {
    const tag = request[at++];
    const start = at;
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      value += (request[at] & 0x7f) * 2 ** shift;
      if (request[at++] < 0x80) break;
    }
    if ((tag & 7) === 2) {
      parts.push(Buffer.of(tag + 8), request.subarray(start, at + value));
      at += value;
    }
  }
  return Buffer.concat([...parts, Buffer.of(0x20, 1)]);
}

const servers = [0.1, 0.9].map((utilization) => {
  const server = new grpc.Server({ "grpc.server_call_metric_recording": outOfBand ? 0 : 1 });
  const counted = { calls: 0, server };
  const answer = (call, respond) => {
    counted.calls += 1;
    if (!outOfBand) {
      const recorder = call.getMetricsRecorder();
      recorder.recordCPUUtilizationMetric(utilization);
      recorder.recordQpsMetric(100);
    }
    respond(null, echo(call.request));
  };
  if (outOfBand) {
    const recorder = new grpc.ServerMetricRecorder();
    recorder.setCpuUtilizationMetric(utilization);
    recorder.setQpsMetric(100);
    recorder.addToServer(server);
  }
  server.register("/evenkeel.demo.v1.Demo/Echo", answer, same, same, "unary");
  return counted;
});

const bound = servers.map(
  ({ server }) =>
    new Promise((resolve, reject) => {
      const insecure = grpc.ServerCredentials.createInsecure();
      server.bindAsync("127.0.0.1:0", insecure, (error, port) => (error ? reject(error) : resolve(port)));
    }),
);
Promise.all(bound).then((ports) => {
  console.log(JSON.stringify(ports));
  process.stdin.on("data", () => {
    console.log(JSON.stringify(servers.map(({ calls }) => calls)));
    for (const server of servers) server.calls = 0;
  });
  process.stdin.on("end", () => process.exit(0));
});
