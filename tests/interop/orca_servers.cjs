// Two gRPC servers that report their load with each answer: utilisation 0.1 and 0.9, as many requests a
// second. Prints their addresses; for each line on stdin, how many calls each has had since the last one.
const grpc = require("@grpc/grpc-js");

const same = (bytes) => bytes;
const servers = [0.1, 0.9].map((utilization) => {
  const server = new grpc.Server({ "grpc.server_call_metric_recording": 1 });
  const counted = { calls: 0, server };
  const answer = (call, respond) => {
    counted.calls += 1;
    const recorder = call.getMetricsRecorder();
    recorder.recordCPUUtilizationMetric(utilization);
    recorder.recordQpsMetric(100);
    respond(null, Buffer.alloc(0));
  };
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
