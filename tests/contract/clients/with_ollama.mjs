// npm's ollama, the official client. loop.py describes requests and responses.

import { createRequire } from "node:module";
import { answer, collected, joined, serve } from "./loop.mjs";

// The packages are installed beside Node.
const require = createRequire(process.argv[2]);
const { Ollama } = require("ollama");
const { z } = require("zod");

const Wind = z.object({ speed: z.int().min(0).max(99), direction: z.enum(["north", "south"]) });
const Weather = z.object({
  sky: z.enum(["blue", "grey"]),
  colours: z.array(z.string().max(6)).max(3),
  wind: Wind,
  note: z.string().max(9).nullable().optional(),
  gusts: Wind.optional(),
  legacy: z.never().optional(),
});

const user = (question) => [{ role: "user", content: question }];

const reported = (last, text, parts = null) =>
  answer(text, last.done_reason, [last.prompt_eval_count, last.eval_count], parts);

class OllamaJs {
  #client;
  #model;
  #embedder;
  #stream;

  constructor({ url, model, embedder }) {
    this.#client = new Ollama({ host: url });
    this.#model = model;
    this.#embedder = embedder;
  }

  #chat(messages, rest) {
    return this.#client.chat({ model: this.#model, messages, ...rest });
  }

  async chat({ question, options }) {
    const reply = await this.#chat(user(question), { options });
    return reported(reply, reply.message.content);
  }

  async chat_stream({ question, options }) {
    const parts = await collected(await this.#chat(user(question), { options, stream: true }));
    return reported(parts.at(-1), joined(parts, (part) => part.message.content), parts.length);
  }

  async generate({ question, options }) {
    const reply = await this.#client.generate({ model: this.#model, prompt: question, options });
    return reported(reply, reply.response);
  }

  async generate_stream({ question, options }) {
    const request = { model: this.#model, prompt: question, options, stream: true };
    const parts = await collected(await this.#client.generate(request));
    return reported(parts.at(-1), joined(parts, (part) => part.response), parts.length);
  }

  async tools({ question, tools, outcome, options }) {
    const reply = await this.#chat(user(question), { tools, options });
    return this.#after(question, reply.message, reply.message.tool_calls ?? [], { tools, options }, outcome);
  }

  async tools_stream({ question, tools, outcome, options }) {
    const parts = await collected(await this.#chat(user(question), { tools, options, stream: true }));
    const calls = parts.flatMap((part) => part.message.tool_calls ?? []);
    const reply = { role: "assistant", content: "", tool_calls: calls };
    return this.#after(question, reply, calls, { tools, options }, outcome);
  }

  async #after(question, reply, calls, rest, outcome) {
    const results = calls.map((call) => ({ role: "tool", content: outcome, tool_name: call.function.name }));
    const again = await this.#chat([...user(question), reply, ...results], rest);
    const used = calls.map((call) => ({ name: call.function.name, arguments: call.function.arguments }));
    return { calls: used, text: again.message.content };
  }

  async format({ question, schema, options }) {
    return (await this.#chat(user(question), { format: schema, options })).message.content;
  }

  async typed_format({ question, options }) {
    const text = await this.format({ question, schema: z.toJSONSchema(Weather), options });
    return { text, parsed: Weather.parse(JSON.parse(text)) };
  }

  async thinking({ question, on, options }) {
    const { message } = await this.#chat(user(question), { think: on, options });
    return { thinking: message.thinking ?? "", text: message.content };
  }

  async thinking_stream({ question, on, options }) {
    const parts = await collected(await this.#chat(user(question), { think: on, options, stream: true }));
    return {
      thinking: joined(parts, (part) => part.message.thinking),
      text: joined(parts, (part) => part.message.content),
    };
  }

  async embed({ texts }) {
    return (await this.#client.embed({ model: this.#embedder, input: texts })).embeddings;
  }

  async list() {
    return (await this.#client.list()).models.map((model) => model.model);
  }

  async show() {
    const shown = await this.#client.show({ model: this.#model });
    const architecture = shown.model_info["general.architecture"];
    return { capabilities: shown.capabilities, context: shown.model_info[`${architecture}.context_length`] };
  }

  async ps() {
    const { models } = await this.#client.ps();
    return models.map((model) => ({
      name: model.model,
      expires: Date.parse(model.expires_at) / 1000,
      size: model.size_vram,
    }));
  }

  async pull() {
    const { status } = await this.#client.pull({ model: this.#model });
    const parts = await collected(await this.#client.pull({ model: this.#model, stream: true }));
    return [status, ...parts.map((part) => part.status)];
  }

  async create_copy_delete({ name, system }) {
    const copy = `${name}-copy`;
    const created = await this.#client.create({ model: name, from: this.#model, system });
    const copied = await this.#client.copy({ source: name, destination: copy });
    const { modelfile } = await this.#client.show({ model: copy });
    const { response } = await this.#client.generate({ model: copy, prompt: "hello" });
    const deleted = [await this.#client.delete({ model: name }), await this.#client.delete({ model: copy })];
    return { statuses: [created, copied, ...deleted].map(({ status }) => status), modelfile, text: response };
  }

  async unknown_model() {
    return (await this.#client.chat({ model: "nope", messages: user("hello") })).message.content;
  }

  async concurrent({ count, question, options }) {
    const all = await Promise.all(Array.from({ length: count }, () => this.chat({ question, options })));
    return all.map((one) => one.text);
  }

  async open_stream({ question, options }) {
    this.#stream = await this.#chat(user(question), { options, stream: true });
    for await (const part of this.#stream.itr) return part.done;
  }

  close_stream() {
    this.#stream.abort();
    return null;
  }
}

await serve(OllamaJs);
