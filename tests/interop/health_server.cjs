// A gRPC server with grpc-js' own health service. Prints its port; each line on stdin is the service's status from
// then on. It does not serve at first.
const grpc = require("@grpc/grpc-js");
const { HealthImplementation } = require("grpc-health-check");
const readline = require("node:readline");

const service = process.argv[2];
const health = new HealthImplementation({ [service]: "NOT_SERVING" });
const server = new grpc.Server();
health.addToServer(server);
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
  readline.createInterface({ input: process.stdin }).on("line", (status) => health.setStatus(service, status));
});
