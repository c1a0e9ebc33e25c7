// A web server of Node's standard library.
const http = require("node:http");
const os = require("node:os");

http
  .createServer((request, response) => {
    response.setHeader("Content-Type", "text/plain; charset=utf-8");
    response.end(`Hello from ${os.hostname()}: ${request.method} ${request.url}\n`);
  })
  .listen(3000, "127.0.0.1");
