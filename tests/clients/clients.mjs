// The clients of OpenAI, Anthropic and Vercel, unchanged, against `winnow serve models/winnow-nano`.
//
//   npm install --no-package-lock && node clients.mjs http://127.0.0.1:8000
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const base = process.argv[2] ?? "http://127.0.0.1:8000";
const model = "winnow-nano";
const content =
  "The door code of the Dublin library is 70316.\n\nWhat is the door code of the Dublin library?";
const messages = [{ role: "user", content }];

async function openai() {
  const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "any", maxRetries: 0 });
  const answer = await client.chat.completions.create({ model, messages, temperature: 0 });
  assert.equal(answer.choices[0].message.content, "70316");
  assert.ok(answer.usage.winnow.decode.tokens > 0);
  let text = "";
  let usage;
  const stream = await client.chat.completions.create({
    model, messages, temperature: 0, stream: true, stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, "70316");
  assert.ok(usage.completion_tokens > 0);
  await assert.rejects(client.chat.completions.create({ model, messages, top_p: 3 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "top_p");
  await assert.rejects(client.chat.completions.create({ model: "other", messages }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  const long = await client.chat.completions.create({ model, messages, stream: true });
  for await (const _ of long) break;  // leaves in the middle
}

async function anthropic() {
  const client = new Anthropic({ baseURL: base, apiKey: "any", maxRetries: 0 });
  const request = { model, messages, max_tokens: 20, temperature: 0 };
  const answer = await client.messages.create(request);
  assert.equal(answer.content[0].text, "70316");
  assert.equal(answer.stop_reason, "end_turn");
  const final = await client.messages.stream(request).finalMessage();
  assert.equal(final.content[0].text, "70316");
  assert.equal(final.stop_reason, "end_turn");
  assert.ok(final.usage.output_tokens > 0);
  const count = await client.messages.countTokens({ model, messages });
  assert.equal(count.input_tokens,
    answer.usage.input_tokens + answer.usage.cache_read_input_tokens);
  await assert.rejects(client.messages.create({ ...request, max_tokens: 0 }),
    (error) => error instanceof Anthropic.BadRequestError
      && error.error.error.type === "invalid_request_error");
  const models = await client.models.list();
  assert.equal(models.data[0].id, model);
}

async function vercel() {
  const provider = createOpenAICompatible({ name: "winnow", baseURL: `${base}/v1` });
  const answer = await generateText({ model: provider(model), prompt: content, temperature: 0 });
  assert.equal(answer.text, "70316");
  const stream = streamText({ model: provider(model), prompt: content, temperature: 0 });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, "70316");
}

for (const client of [openai, anthropic, vercel]) {
  await client();
  console.log(`${client.name} ok`);
}
