// npm's openai, the official client. loop.py describes requests and responses, with_openai.py the scenarios.

import { createRequire } from "node:module";
import { answer, collected, joined, serve } from "./loop.mjs";

// The packages are installed beside Node.
const require = createRequire(process.argv[2]);
const { OpenAI, toFile } = require("openai");
const { zodResponseFormat, zodTextFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const Place = z.object({ city: z.enum(["Paris", "Rome"]), unit: z.enum(["celsius", "kelvin"]) });
const Call = z.object({ name: z.enum(["get_weather", "get_time"]), arguments: Place });

/** A second of silence as a WAV file. */
const silence = () => {
  const size = 32000;
  const head = Buffer.alloc(44);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + size, 4);
  head.write("WAVEfmt ", 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(16000, 24);
  head.writeUInt32LE(size, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write("data", 36);
  head.writeUInt32LE(size, 40);
  return Buffer.concat([head, Buffer.alloc(size)]);
};

const user = (question) => [{ role: "user", content: question }];
const effort = (on) => (on ? "medium" : "none");
const called = ({ name, arguments: text }) => ({ name, arguments: JSON.parse(text) });
const flat = (tools) => tools.map((tool) => ({ type: "function", ...tool.function }));
const results = (calls, outcome) =>
  calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: outcome }));

const reported = (choice, text, usage, parts = null) =>
  answer(text, choice.finish_reason, usage ? [usage.prompt_tokens, usage.completion_tokens] : null, parts);

/** Thoughts, which an answer has under both names. */
const both = ({ reasoning, reasoning_content }) => {
  if ((reasoning ?? "") !== (reasoning_content ?? "")) throw new Error("reasoning and reasoning_content differ");
  return reasoning ?? "";
};

class OpenAIJs {
  #client;
  #model;
  #embedder;
  #stream;

  constructor({ url, model, embedder, key = "unused" }) {
    this.#client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
    this.#model = model;
    this.#embedder = embedder;
  }

  #create(messages, rest) {
    return this.#client.chat.completions.create({ model: this.#model, messages, ...rest });
  }

  async chat({ question, options }) {
    const { choices, usage } = await this.#create(user(question), options);
    return reported(choices[0], choices[0].message.content, usage);
  }

  async chat_stream({ question, options }) {
    const asked = { ...options, stream: true, stream_options: { include_usage: true } };
    const parts = await collected(await this.#create(user(question), asked));
    const chosen = parts.filter(({ choices }) => choices.length).map(({ choices }) => choices[0]);
    const last = chosen.find(({ finish_reason }) => finish_reason);
    return reported(last, joined(chosen, ({ delta }) => delta.content), parts.at(-1).usage, parts.length);
  }

  async usage({ question, options }) {
    const flags = [];
    for (const more of [{}, { stream_options: { include_usage: true } }]) {
      const parts = await collected(await this.#create(user(question), { ...options, stream: true, ...more }));
      flags.push(parts.map(({ usage }) => Boolean(usage)));
    }
    return flags;
  }

  async helper({ question, options }) {
    const kinds = [];
    const stream = this.#client.chat.completions.stream({ model: this.#model, messages: user(question), ...options });
    for (const kind of ["chunk", "content.delta", "content.done"]) stream.on(kind, () => kinds.push(kind));
    const final = await stream.finalChatCompletion();
    return { kinds, text: final.choices[0].message.content, model: final.model };
  }

  async choices({ question, count, options }) {
    const { choices } = await this.#create(user(question), { ...options, n: count });
    const streamed = Array(count).fill("");
    for await (const part of await this.#create(user(question), { ...options, n: count, stream: true }))
      for (const { index, delta } of part.choices) streamed[index] += delta.content ?? "";
    return {
      indexes: choices.map(({ index }) => index),
      whole: choices.map(({ message }) => message.content),
      streamed,
    };
  }

  async tools({ question, tools, outcome, options }) {
    const { choices } = await this.#create(user(question), { ...options, tools });
    return this.#after(question, choices[0], tools, outcome, options);
  }

  async tools_stream({ question, tools, outcome, options }) {
    const request = { model: this.#model, messages: user(question), ...options, tools };
    const { choices } = await this.#client.chat.completions.stream(request).finalChatCompletion();
    return this.#after(question, choices[0], tools, outcome, options);
  }

  async #after(question, { message, finish_reason }, tools, outcome, options) {
    const calls = message.tool_calls ?? [];
    const messages = [...user(question), message, ...results(calls, outcome)];
    const again = await this.#create(messages, { ...options, tools });
    return {
      calls: calls.map((call) => called(call.function)),
      reason: finish_reason,
      text: again.choices[0].message.content,
    };
  }

  async tool_choice({ question, tools, choice, options }) {
    const settings = { ...options, tools, tool_choice: choice };
    const whole = (await this.#create(user(question), settings)).choices[0];
    const streamed = [];
    let reason = null;
    for await (const part of await this.#create(user(question), { ...settings, stream: true }))
      for (const { delta, finish_reason } of part.choices) {
        reason = finish_reason ?? reason;
        for (const { index, id, function: piece } of delta.tool_calls ?? []) {
          const call = (streamed[index] ??= { id: "", name: "", arguments: "" });
          call.id += id ?? "";
          call.name += piece.name ?? "";
          call.arguments += piece.arguments ?? "";
        }
      }
    const calls = whole.message.tool_calls ?? [];
    return {
      whole: calls.map((call) => called(call.function)),
      streamed: streamed.map(called),
      ids: [...calls, ...streamed].map(({ id }) => id),
      reasons: [whole.finish_reason, reason],
    };
  }

  async typed_format({ question, options }) {
    const request = { model: this.#model, messages: user(question), ...options };
    const parsed = await this.#client.chat.completions.parse({
      ...request,
      response_format: zodResponseFormat(Call, "call"),
    });
    return { text: parsed.choices[0].message.content, parsed: parsed.choices[0].message.parsed };
  }

  async format({ question, schema, options }) {
    const response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
    return (await this.#create(user(question), { ...options, response_format })).choices[0].message.content;
  }

  async thinking({ question, on, options }) {
    const { choices } = await this.#create(user(question), { ...options, reasoning_effort: effort(on) });
    return { thinking: both(choices[0].message), text: choices[0].message.content };
  }

  async thinking_stream({ question, on, options }) {
    const asked = { ...options, reasoning_effort: effort(on), stream: true };
    const parts = await collected(await this.#create(user(question), asked));
    const deltas = parts.flatMap(({ choices }) => choices.map(({ delta }) => delta));
    return { thinking: joined(deltas, both), text: joined(deltas, ({ content }) => content) };
  }

  async generate({ question, options }) {
    const request = { model: this.#model, prompt: question, ...options };
    const { choices, usage } = await this.#client.completions.create(request);
    return reported(choices[0], choices[0].text, usage);
  }

  async generate_stream({ question, options }) {
    const request = { model: this.#model, prompt: question, ...options, stream: true };
    const parts = await collected(await this.#client.completions.create(request));
    const chosen = parts.flatMap(({ choices }) => choices);
    return reported(chosen.at(-1), joined(chosen, ({ text }) => text), null, chosen.length);
  }

  async #vectors(input, rest) {
    const { data } = await this.#client.embeddings.create({ model: this.#embedder, input, ...rest });
    return data.map(({ embedding }) => embedding);
  }

  async embed({ texts }) {
    return this.#vectors(texts, {});
  }

  async embed_floats({ texts }) {
    return this.#vectors(texts, { encoding_format: "float" });
  }

  async transcribe() {
    const file = await toFile(silence(), "speech.wav");
    const request = { model: this.#model, file };
    const { transcriptions } = this.#client.audio;
    return {
      json: (await transcriptions.create(request)).text,
      text: await transcriptions.create({ ...request, response_format: "text" }),
      verbose_json: (await transcriptions.create({ ...request, response_format: "verbose_json" })).text,
    };
  }

  async list() {
    return (await collected(await this.#client.models.list())).map(({ id }) => id);
  }

  async retrieve({ name }) {
    const { id, object, created, owned_by } = await this.#client.models.retrieve(name);
    return { id, object, created, owner: owned_by };
  }

  #respond(input, rest) {
    return this.#client.responses.create({ model: this.#model, input, ...rest });
  }

  async respond({ question, options }) {
    const { output_text, status, usage } = await this.#respond(question, options);
    return answer(output_text, status, [usage.input_tokens, usage.output_tokens]);
  }

  async respond_stream({ question, options }) {
    const events = await collected(await this.#respond(question, { ...options, stream: true }));
    const final = events.at(-1).response;
    const parts = final.output.flatMap(({ content, type }) => (type === "message" ? content : []));
    return {
      kinds: events.map(({ type }) => type),
      numbers: events.map(({ sequence_number }) => sequence_number),
      text: joined(events, ({ type, delta }) => (type === "response.output_text.delta" ? delta : "")),
      final: joined(parts, ({ text }) => text),
      model: final.model,
    };
  }

  async respond_helper({ question, options }) {
    const kinds = [];
    const stream = this.#client.responses.stream({ model: this.#model, input: question, ...options });
    stream.on("event", ({ type }) => kinds.push(type));
    const final = await stream.finalResponse();
    return { kinds, text: final.output_text, status: final.status };
  }

  async respond_tools({ question, tools, outcome, options }) {
    const asked = [{ type: "message", role: "user", content: question }];
    const { output } = await this.#respond(asked, { ...options, tools: flat(tools) });
    const calls = output.filter(({ type }) => type === "function_call");
    const done = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: outcome }));
    const again = await this.#respond([...asked, ...output, ...done], { ...options, tools: flat(tools) });
    return { calls: calls.map(called), text: again.output_text };
  }

  async respond_reasoning({ question, options }) {
    const { output, output_text } = await this.#respond(question, { ...options, reasoning: { effort: "medium" } });
    const { content } = output.find(({ type }) => type === "reasoning");
    return { thinking: joined(content ?? [], ({ text }) => text), text: output_text };
  }

  async respond_typed({ question, options }) {
    const request = { model: this.#model, input: question, ...options };
    const reply = await this.#client.responses.parse({ ...request, text: { format: zodTextFormat(Call, "call") } });
    return { text: reply.output_text, parsed: reply.output_parsed };
  }

  async respond_previous() {
    return (await this.#respond("hello", { previous_response_id: "resp_1" })).id;
  }

  async say({ question, streamed }) {
    const reply = await this.#create(user(question), { stream: streamed });
    return JSON.stringify(streamed ? await collected(reply) : reply);
  }

  async unknown_model() {
    return (await this.#create(user("hello"), { model: "nope" })).id;
  }

  async unknown_model_elsewhere({ route }) {
    const { completions, embeddings, responses, models } = this.#client;
    const calls = {
      completions: () => completions.create({ model: "nope", prompt: "hello" }),
      embeddings: () => embeddings.create({ model: "nope", input: "hello" }),
      responses: () => responses.create({ model: "nope", input: "hello" }),
      models: () => models.retrieve("nope"),
    };
    return JSON.stringify(await calls[route]());
  }

  async stream_of_unknown_model() {
    return collected(await this.#create(user("hello"), { model: "nope", stream: true }));
  }

  async bad_request({ fields }) {
    return (await this.#create(user("hello"), fields)).id;
  }

  async embedding_model_in_chat() {
    return (await this.#create(user("hello"), { model: this.#embedder })).id;
  }

  async chat_model_in_embeddings() {
    return (await this.#client.embeddings.create({ model: this.#model, input: "hello" })).data.length;
  }

  async raw({ question, options }) {
    const { data, response, request_id } = await this.#create(user(question), options).withResponse();
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      id: request_id,
      header: response.headers.get("x-request-id"),
      text: data.choices[0].message.content,
      parsed_id: data._request_id,
    };
  }

  async time_out({ question, options, seconds }) {
    const request = { model: this.#model, messages: user(question), ...options };
    return (await this.#client.chat.completions.create(request, { timeout: seconds * 1000 })).id;
  }

  async concurrent({ count, question, options }) {
    const all = await Promise.all(Array.from({ length: count }, () => this.chat({ question, options })));
    return all.map((one) => one.text);
  }

  async open_stream({ question, options }) {
    this.#stream = await this.#create(user(question), { ...options, stream: true });
    const first = await this.#stream[Symbol.asyncIterator]().next();
    return first.value.choices[0].finish_reason !== null;
  }

  close_stream() {
    this.#stream.controller.abort();
    return null;
  }
}

await serve(OpenAIJs);
