// A real backend: llama.cpp through node-llama-cpp, one GGUF file, in the manner of llama-server:
// GET /health is 503 until the model is loaded; POST /v1/chat/completions, whole or as a stream.
//
//     node llama_backend.mjs MODEL.gguf PORT
import http from "node:http";
import {TokenBias, getLlama} from "node-llama-cpp";

const [, , path, port] = process.argv;
const kMaxLifetimeMs = 280_000;
setTimeout(() => process.exit(3), kMaxLifetimeMs).unref();

let answer = null; // (request, token => whether to go on) -> promise, once it is loaded
http.createServer((request, response) => {
  const ready = answer !== null;
  if (request.method === "POST" && ready) return chat(request, response);
  response.writeHead(ready ? 200 : 503, {"content-type": "application/json"});
  response.end(JSON.stringify(ready ? {status: "ok"} : {error: {message: "Loading model"}}));
}).listen(Number(port), "127.0.0.1");

const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: 512, sequences: 4});
const neverEnds = TokenBias.for(model).set(model.tokens.eos, "never");
const name = model.fileInfo.metadata.general.name; // who answers is what the file says
const free = Array.from({length: 4}, () => context.getSequence());
const waiting = [];

answer = async ({messages, max_tokens = 16}, take) => {
  const sequence = free.pop() ?? await new Promise(resolve => waiting.push(resolve));
  try {
    await sequence.clearHistory();
    const prompt = model.tokenize(messages.map(message => message.content).join(" "));
    const tokens = sequence.evaluate(prompt, {temperature: 1, tokenBias: neverEnds});
    for (let left = max_tokens; left > 0; --left) {
      const {value: token} = await tokens.next();
      if (!take(model.detokenize([token]))) break;
    }
    await tokens.return();
  } finally {
    const next = waiting.shift();
    next ? next(sequence) : free.push(sequence);
  }
};

async function chat(request, response) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const wanted = JSON.parse(body);
  const completion = choice => JSON.stringify(
      {model: name, pid: process.pid, choices: [{index: 0, ...choice}]});
  if (wanted.stream) {
    response.writeHead(200, {"content-type": "text/event-stream"});
    await answer(wanted, content => {
      response.write(`data: ${completion({delta: {content}})}\n\n`);
      return !response.destroyed;
    });
    return response.end("data: [DONE]\n\n");
  }
  let content = "";
  await answer(wanted, token => ((content += token), !response.destroyed));
  response.writeHead(200, {"content-type": "application/json"});
  response.end(completion({message: {role: "assistant", content}}));
}
