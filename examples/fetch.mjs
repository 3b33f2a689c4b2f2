// The HTTP API from JavaScript (Node 18 or newer, or a browser). A server must be running: tollama serve
const url = globalThis.process?.env.TOLLAMA_URL ?? "http://127.0.0.1:11435";
const request = {
  model: "seasonal-naive",
  horizon: 3,
  series: [{ id: "sales", start: "2024-01-01", freq: "MS", target: [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118] }],
  response_options: { timestamps: true },
};

async function post(path, body) {
  const answer = await fetch(url + path, { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) {
    const { code, error, hint } = await answer.json();
    throw new Error(`${code}: ${error} ${hint}`);
  }
  return answer;
}

const { forecasts } = await (await post("/v1/forecast", request)).json();
for (const { id, timestamps, mean } of forecasts) console.log(id, timestamps, mean);

// The same as a stream: one object of JSON per line.
let rest = "";
const decoder = new TextDecoder();
for await (const chunk of (await post("/api/forecast", request)).body) {
  const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
  rest = lines.pop();
  for (const line of lines.map((text) => JSON.parse(text))) {
    if (line.error) throw new Error(`${line.code}: ${line.error} ${line.hint}`);
    console.log(line.done ? line.response.forecasts[0].mean : line.status);
  }
}

try {
  await post("/v1/forecast", { ...request, model: "nothing" });
} catch (error) {
  console.log(error.message);
}
