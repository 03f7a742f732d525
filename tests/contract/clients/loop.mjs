// The loop of a JavaScript client. loop.py describes requests and responses.

import { createInterface } from "node:readline";

export const answer = (text, reason, counts, parts = null) => ({ text, reason, counts, parts });

export const collected = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};

export const joined = (parts, pick) => parts.map((part) => pick(part) ?? "").join("");

const run = async (scenario) => {
  try {
    return { result: await scenario() };
  } catch (error) {
    const name = error.name === "Error" ? error.constructor.name : error.name;
    const status = error.status_code ?? error.status ?? error.statusCode ?? null;
    return { error: { class: name, message: error.message, status, code: error.code ?? null } };
  }
};

/** Run scenarios until the input ends. `Client` is a class with a method per scenario. */
export const serve = async (Client) => {
  const scenarios = Object.getOwnPropertyNames(Client.prototype).filter((name) => name !== "constructor");
  const clients = new Map();
  console.log = console.error; // keeps stdout for responses
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    const key = JSON.stringify(request.at);
    if (request.at && !clients.has(key)) clients.set(key, new Client(request.at));
    const response =
      request.scenario === "scenarios"
        ? { result: scenarios.sort() }
        : await run(() => clients.get(key)[request.scenario](request.with));
    process.stdout.write(JSON.stringify(response) + "\n");
  }
};
