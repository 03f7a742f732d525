// npm's ollama, the official client. What comes in and goes out is described in loop.py.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The packages lie beside Node, not beside this file.
const { Ollama } = createRequire(process.argv[2])("ollama");

const user = (question) => [{ role: "user", content: question }];

const answer = (last, text, parts = null) => ({
  text,
  reason: last.done_reason,
  counts: [last.prompt_eval_count, last.eval_count],
  parts,
});

const whole = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};

const joined = (parts, pick) => parts.map((part) => pick(part) ?? "").join("");

class OllamaJs {
  #client;
  #model;
  #embedder;
  #open;

  constructor({ url, model, embedder }) {
    this.#client = new Ollama({ host: url });
    this.#model = model;
    this.#embedder = embedder;
  }

  #chat(messages, rest) {
    return this.#client.chat({ model: this.#model, messages, ...rest });
  }

  async chat({ question, options }) {
    const said = await this.#chat(user(question), { options });
    return answer(said, said.message.content);
  }

  async chat_stream({ question, options }) {
    const parts = await whole(await this.#chat(user(question), { options, stream: true }));
    return answer(parts.at(-1), joined(parts, (part) => part.message.content), parts.length);
  }

  async generate({ question, options }) {
    const said = await this.#client.generate({ model: this.#model, prompt: question, options });
    return answer(said, said.response);
  }

  async generate_stream({ question, options }) {
    const asked = { model: this.#model, prompt: question, options, stream: true };
    const parts = await whole(await this.#client.generate(asked));
    return answer(parts.at(-1), joined(parts, (part) => part.response), parts.length);
  }

  async tools({ question, tools, outcome, options }) {
    const said = await this.#chat(user(question), { tools, options });
    return this.#after(question, said.message, said.message.tool_calls ?? [], { tools, options }, outcome);
  }

  async tools_stream({ question, tools, outcome, options }) {
    const parts = await whole(await this.#chat(user(question), { tools, options, stream: true }));
    const calls = parts.flatMap((part) => part.message.tool_calls ?? []);
    const said = { role: "assistant", content: "", tool_calls: calls };
    return this.#after(question, said, calls, { tools, options }, outcome);
  }

  async #after(question, said, calls, rest, outcome) {
    const results = calls.map((call) => ({ role: "tool", content: outcome, tool_name: call.function.name }));
    const again = await this.#chat([...user(question), said, ...results], rest);
    const made = calls.map((call) => ({ name: call.function.name, arguments: call.function.arguments }));
    return { calls: made, text: again.message.content };
  }

  async format({ question, schema, options }) {
    return (await this.#chat(user(question), { format: schema, options })).message.content;
  }

  async thinking({ question, on, options }) {
    const { message } = await this.#chat(user(question), { think: on, options });
    return { thinking: message.thinking ?? "", text: message.content };
  }

  async thinking_stream({ question, on, options }) {
    const parts = await whole(await this.#chat(user(question), { think: on, options, stream: true }));
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
    const parts = await whole(await this.#client.pull({ model: this.#model, stream: true }));
    return [status, ...parts.map((part) => part.status)];
  }

  async make({ name, system }) {
    const copy = `${name}-copy`;
    const made = await this.#client.create({ model: name, from: this.#model, system });
    const copied = await this.#client.copy({ source: name, destination: copy });
    const { modelfile } = await this.#client.show({ model: copy });
    const { response } = await this.#client.generate({ model: copy, prompt: "hello" });
    const gone = [await this.#client.delete({ model: name }), await this.#client.delete({ model: copy })];
    return { statuses: [made, copied, ...gone].map(({ status }) => status), modelfile, text: response };
  }

  async unknown() {
    return (await this.#client.chat({ model: "nope", messages: user("hello") })).message.content;
  }

  async at_once({ count, question, options }) {
    const all = await Promise.all(Array.from({ length: count }, () => this.chat({ question, options })));
    return all.map((one) => one.text);
  }

  async begin({ question, options }) {
    this.#open = await this.#chat(user(question), { options, stream: true });
    for await (const part of this.#open.itr) return part.done;
  }

  leave() {
    this.#open.abort();
    return null;
  }
}

const tell = async (story) => {
  try {
    return { result: await story() };
  } catch (error) {
    return { error: { class: error.name, message: error.message, status: error.status_code ?? null } };
  }
};

const stories = Object.getOwnPropertyNames(OllamaJs.prototype).filter((name) => name !== "constructor");
const made = new Map();
console.log = console.error; // the client's own remarks
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const key = JSON.stringify(asked.at);
  if (asked.at && !made.has(key)) made.set(key, new OllamaJs(asked.at));
  const told =
    asked.story === "offers" ? { result: stories.sort() } : await tell(() => made.get(key)[asked.story](asked.with));
  process.stdout.write(JSON.stringify(told) + "\n");
}
