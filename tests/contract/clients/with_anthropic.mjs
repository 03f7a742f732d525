// npm's @anthropic-ai/sdk, the official client. loop.py describes requests and responses.

import { createRequire } from "node:module";
import { answer, collected, joined, serve } from "./loop.mjs";

// The packages are installed beside Node.
const require = createRequire(process.argv[2]);
const { Anthropic } = require("@anthropic-ai/sdk");

const TOKENS = 200;
const user = (question) => [{ role: "user", content: question }];
const of = (type) => (block) => block.type === type;
const written = ({ content }) => joined(content.filter(of("text")), ({ text }) => text);
const calls = ({ content }) => content.filter(of("tool_use")).map(({ name, input }) => ({ name, arguments: input }));
const thinking = (on) => (on ? { type: "adaptive" } : { type: "disabled" });
const thoughts = (message) => ({
  thinking: joined(message.content.filter(of("thinking")), (block) => block.thinking),
  text: written(message),
});
const described = (tools) =>
  tools.map(({ function: { name, description, parameters } }) => ({ name, description, input_schema: parameters }));

class AnthropicJs {
  #client;
  #model;
  #embedder;
  #stream;

  constructor({ url, model, embedder, key = "unused" }) {
    this.#client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
    this.#model = model;
    this.#embedder = embedder;
  }

  #request(question, rest) {
    return { model: this.#model, max_tokens: TOKENS, messages: user(question), ...rest };
  }

  #create(question, rest) {
    return this.#client.messages.create(this.#request(question, rest));
  }

  async chat({ question, options }) {
    const message = await this.#create(question, options);
    return answer(written(message), message.stop_reason, [message.usage.input_tokens, message.usage.output_tokens]);
  }

  async chat_stream({ question, options }) {
    const events = await collected(await this.#create(question, { ...options, stream: true }));
    const deltas = events.filter(of("content_block_delta")).map(({ delta }) => delta);
    const last = events.find(of("message_delta"));
    const counts = [events[0].message.usage.input_tokens, last.usage.output_tokens];
    return answer(joined(deltas.filter(of("text_delta")), ({ text }) => text), last.delta.stop_reason, counts, deltas.length);
  }

  async events({ question, options }) {
    const events = await collected(await this.#create(question, { ...options, stream: true }));
    return events.map((event) => {
      const part = event.content_block ?? (event.type === "content_block_delta" ? event.delta : null);
      return part ? `${event.type} ${part.type}` : event.type;
    });
  }

  async helper({ question, options }) {
    let text = "";
    const stream = this.#client.messages.stream(this.#request(question, options)).on("text", (part) => (text += part));
    const final = await stream.finalMessage();
    return { text, final: written(final), model: final.model, role: final.role };
  }

  async beta({ question, options }) {
    const system = [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }];
    const request = { ...this.#request(question, options), system, betas: ["context-1m-2025-08-07"] };
    return written(await this.#client.beta.messages.create(request));
  }

  async tools({ question, tools, outcome, options }) {
    const reply = await this.#create(question, { ...options, tools: described(tools) });
    return this.#after(question, reply, tools, outcome, options);
  }

  async tools_stream({ question, tools, outcome, options }) {
    const request = this.#request(question, { ...options, tools: described(tools) });
    return this.#after(question, await this.#client.messages.stream(request).finalMessage(), tools, outcome, options);
  }

  async #after(question, reply, tools, outcome, options) {
    const used = reply.content.filter(of("tool_use"));
    const content = used.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: outcome }));
    const messages = [...user(question), { role: "assistant", content: reply.content }, { role: "user", content }];
    const again = await this.#create(question, { ...options, tools: described(tools), messages });
    return { calls: calls(reply), reason: reply.stop_reason, text: written(again) };
  }

  async tool_choice({ question, tools, choice, options }) {
    const request = this.#request(question, { ...options, tools: described(tools), tool_choice: choice });
    const whole = await this.#client.messages.create(request);
    const streamed = await this.#client.messages.stream(request).finalMessage();
    return {
      whole: calls(whole),
      streamed: calls(streamed),
      ids: [...whole.content, ...streamed.content].filter(of("tool_use")).map(({ id }) => id),
      reasons: [whole.stop_reason, streamed.stop_reason],
    };
  }

  async thinking({ question, on, options }) {
    return thoughts(await this.#create(question, { ...options, thinking: thinking(on) }));
  }

  async thinking_stream({ question, on, options }) {
    const request = this.#request(question, { ...options, thinking: thinking(on) });
    return thoughts(await this.#client.messages.stream(request).finalMessage());
  }

  async budget({ question, tokens, options }) {
    const thinking = { type: "enabled", budget_tokens: tokens };
    return thoughts(await this.#create(question, { ...options, thinking, max_tokens: tokens + 100 }));
  }

  async count_tokens({ question }) {
    return (await this.#client.messages.countTokens({ model: this.#model, messages: user(question) })).input_tokens;
  }

  async list() {
    return (await collected(await this.#client.models.list())).map(({ id }) => id);
  }

  async retrieve({ name }) {
    const { id, type, created_at } = await this.#client.models.retrieve(name);
    return { id, object: type, created: Date.parse(created_at) / 1000 };
  }

  async say({ question, streamed }) {
    if (!streamed) return written(await this.#create(question, {}));
    return this.#client.messages.stream(this.#request(question, {})).finalText();
  }

  async unknown_model() {
    return (await this.#create("hello", { model: "nope" })).id;
  }

  async unknown_model_elsewhere({ route }) {
    const { messages, beta } = this.#client;
    const calls = {
      count_tokens: () => messages.countTokens({ model: "nope", messages: user("hello") }),
      beta: () => beta.messages.create({ model: "nope", max_tokens: 1, messages: user("hello") }),
    };
    return JSON.stringify(await calls[route]());
  }

  async stream_of_unknown_model() {
    return this.#client.messages.stream(this.#request("hello", { model: "nope" })).finalText();
  }

  async bad_request({ fields }) {
    return (await this.#create("hello", fields)).id;
  }

  async embedding_model_in_chat() {
    return (await this.#create("hello", { model: this.#embedder })).id;
  }

  async raw({ question, options }) {
    const { data, response, request_id } = await this.#create(question, options).withResponse();
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      id: request_id,
      header: response.headers.get("request-id"),
      text: written(data),
      parsed_id: data._request_id,
    };
  }

  async time_out({ question, options, seconds }) {
    const request = this.#request(question, { ...options, max_tokens: 1900 });
    return (await this.#client.messages.create(request, { timeout: seconds * 1000 })).id;
  }

  async concurrent({ count, question, options }) {
    const all = await Promise.all(Array.from({ length: count }, () => this.chat({ question, options })));
    return all.map((one) => one.text);
  }

  async open_stream({ question, options }) {
    this.#stream = await this.#create(question, { ...options, stream: true, max_tokens: 1900 });
    const events = this.#stream[Symbol.asyncIterator]();
    for (let read = 0; read < 3; read++) if ((await events.next()).value.type === "message_stop") return true;
    return false;
  }

  close_stream() {
    this.#stream.controller.abort();
    return null;
  }
}

await serve(AnthropicJs);
