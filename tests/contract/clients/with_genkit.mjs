// npm's genkitx-ollama, Genkit's plugin. It parses each network chunk of a stream as one JSON document.

import { createRequire } from "node:module";
import { answer, collected, joined, serve } from "./loop.mjs";

// The packages are installed beside Node.
const require = createRequire(process.argv[2]);
const { genkit } = require("genkit");
const { ollama } = require("genkitx-ollama");

// A busy machine may give this process no time between two lines, which it then reads together. Lines that the server
// writes together fail every time.
const TRIES = 100;

class Genkit {
  #genkit;
  #model;
  #embedder;

  constructor({ url, model, embedder }) {
    const plugin = ollama({
      serverAddress: url,
      models: [{ name: model, type: "chat" }, { name: `${model}:latest`, type: "generate" }],
      embedders: [{ name: embedder, dimensions: 8 }],
    });
    this.#genkit = genkit({ plugins: [plugin] });
    this.#model = model;
    this.#embedder = embedder;
  }

  async #whole(model, { question, options }) {
    const { text } = await this.#genkit.generate({ model, prompt: question, config: options });
    return answer(text, null, null);
  }

  async #streamed(model, request) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#streamedOnce(model, request);
      } catch (error) {
        if (!(error instanceof SyntaxError) || attempt === TRIES) throw error;
      }
    }
  }

  async #streamedOnce(model, { question, options }) {
    const { stream, response } = this.#genkit.generateStream({ model, prompt: question, config: options });
    const [parts] = await Promise.all([collected(stream), response]);
    return answer(joined(parts, (part) => part.text), null, null, parts.length);
  }

  chat(request) {
    return this.#whole(`ollama/${this.#model}`, request);
  }

  chat_stream(request) {
    return this.#streamed(`ollama/${this.#model}`, request);
  }

  generate(request) {
    return this.#whole(`ollama/${this.#model}:latest`, request);
  }

  generate_stream(request) {
    return this.#streamed(`ollama/${this.#model}:latest`, request);
  }

  async embed({ texts }) {
    const embedded = await this.#genkit.embedMany({ embedder: `ollama/${this.#embedder}`, content: texts });
    return embedded.map(({ embedding }) => embedding);
  }

  concurrent({ count, question, options }) {
    const all = Array.from({ length: count }, () => this.chat({ question, options }));
    return Promise.all(all).then((replies) => replies.map(({ text }) => text));
  }
}

await serve(Genkit);
