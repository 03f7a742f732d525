// npm's ai with @ai-sdk/openai-compatible. loop.py describes requests and responses.

import { createRequire } from "node:module";
import { answer, collected, joined, serve } from "./loop.mjs";

// The packages are installed beside Node.
const require = createRequire(process.argv[2]);
const { embedMany, generateObject, generateText, jsonSchema, Output, stepCountIs, streamText, tool } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { z } = require("zod");

const Place = z.object({ city: z.enum(["Paris", "Rome"]), unit: z.enum(["celsius", "kelvin"]) });
const Call = z.object({ name: z.enum(["get_weather", "get_time"]), arguments: Place });

const counts = ({ inputTokens, outputTokens }) => [inputTokens, outputTokens];

/** Tools that answer with `outcome` and note their calls. */
const noted = (tools, outcome, calls) =>
  Object.fromEntries(
    tools.map(({ function: { name, description, parameters } }) => {
      const execute = (given) => {
        calls.push({ name, arguments: given });
        return outcome;
      };
      return [name, tool({ description, inputSchema: jsonSchema(parameters), execute })];
    }),
  );

class AiSdk {
  #provider;
  #model;
  #embedder;
  #abort;

  constructor({ url, model, embedder, key = "unused" }) {
    const settings = { baseURL: `${url}/v1`, apiKey: key, includeUsage: true, supportsStructuredOutputs: true };
    this.#provider = createOpenAICompatible({ name: "pool", ...settings });
    this.#model = model;
    this.#embedder = embedder;
  }

  #request(prompt, options, rest = {}) {
    return { model: this.#provider(this.#model), prompt, maxRetries: 0, ...options, ...rest };
  }

  async chat({ question, options }) {
    const { text, finishReason, usage } = await generateText(this.#request(question, options));
    return answer(text, finishReason, counts(usage));
  }

  async chat_stream({ question, options }) {
    const result = streamText(this.#request(question, options));
    const parts = await collected(result.textStream);
    return answer(parts.join(""), await result.finishReason, counts(await result.usage), parts.length);
  }

  async generate({ question, options }) {
    const request = this.#request(question, options, { model: this.#provider.completionModel(this.#model) });
    const { text, finishReason, usage } = await generateText(request);
    return answer(text, finishReason, counts(usage));
  }

  async generate_stream({ question, options }) {
    const model = this.#provider.completionModel(this.#model);
    const result = streamText(this.#request(question, options, { model }));
    const parts = await collected(result.textStream);
    return answer(parts.join(""), await result.finishReason, null, parts.length);
  }

  #steps(tools, outcome, calls) {
    return { tools: noted(tools, outcome, calls), stopWhen: stepCountIs(2) };
  }

  async tools({ question, tools, outcome, options }) {
    const calls = [];
    const result = await generateText(this.#request(question, options, this.#steps(tools, outcome, calls)));
    return { calls: calls.slice(0, 1), reason: result.steps[0].finishReason, text: result.text };
  }

  async tools_stream({ question, tools, outcome, options }) {
    const calls = [];
    const result = streamText(this.#request(question, options, this.#steps(tools, outcome, calls)));
    const text = await result.text;
    return { calls: calls.slice(0, 1), reason: (await result.steps)[0].finishReason, text };
  }

  async format({ question, schema, options }) {
    return JSON.stringify((await generateObject(this.#request(question, options, { schema: jsonSchema(schema) }))).object);
  }

  async typed_format({ question, options }) {
    const output = Output.object({ schema: Call });
    const result = await generateText(this.#request(question, options, { output }));
    return { text: result.text, parsed: result.output };
  }

  #effort(on) {
    return { providerOptions: { pool: { reasoningEffort: on ? "medium" : "none" } } };
  }

  async thinking({ question, on, options }) {
    const { reasoningText, text } = await generateText(this.#request(question, options, this.#effort(on)));
    return { thinking: reasoningText ?? "", text };
  }

  async thinking_stream({ question, on, options }) {
    const result = streamText(this.#request(question, options, this.#effort(on)));
    const parts = await collected(result.fullStream);
    const texts = (type) => joined(parts.filter((part) => part.type === type), ({ text }) => text);
    return { thinking: texts("reasoning-delta"), text: texts("text-delta") };
  }

  async embed({ texts }) {
    const model = this.#provider.embeddingModel(this.#embedder);
    return (await embedMany({ model, values: texts, maxRetries: 0 })).embeddings;
  }

  async unknown_model() {
    return (await generateText(this.#request("hello", {}, { model: this.#provider("nope") }))).text;
  }

  async concurrent({ count, question, options }) {
    const all = await Promise.all(Array.from({ length: count }, () => this.chat({ question, options })));
    return all.map((one) => one.text);
  }

  async open_stream({ question, options }) {
    this.#abort = new AbortController();
    const result = streamText(this.#request(question, options, { abortSignal: this.#abort.signal, onAbort() {} }));
    const parts = result.textStream[Symbol.asyncIterator]();
    return (await parts.next()).done;
  }

  close_stream() {
    this.#abort.abort();
    return null;
  }
}

await serve(AiSdk);
