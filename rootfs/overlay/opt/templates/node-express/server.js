import express from "express";

const app = express();
const port = 3000;
let visits = 0;

app.use(express.json());

app.get("/", (request, response) => {
  visits += 1;
  response.send(`<!doctype html>
<title>node-express</title>
<h1>Hello from Express</h1>
<p>You came from ${request.get("x-forwarded-for") ?? "nowhere"}; visit ${visits} of this server.</p>`);
});

app.get("/api/time", (_request, response) => {
  response.json({ now: new Date().toISOString() });
});

app.listen(port, "127.0.0.1", () => console.log(`listening on ${port}`));
