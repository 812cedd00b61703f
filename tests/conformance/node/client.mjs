// A client on the official TypeScript SDK: `node client.mjs URL STEPS ROOT`.
//
// STEPS is a JSON list of what to do; the answers are printed as one JSON document,
// `{answers, progress, told}`. The person at this client accepts every form, its model repeats what
// it is asked, and ROOT is its one root.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
} from "@modelcontextprotocol/sdk/types.js";

const [address, program, root] = process.argv.slice(2);
const url = new URL(address);
const progress = [];
const told = [];

const capabilities = { sampling: {}, elicitation: {}, roots: { listChanged: true } };
const client = new Client({ name: "typescript", version: "1" }, { capabilities });
client.setRequestHandler(CreateMessageRequestSchema, async (request) => {
  const said = request.params.messages[0].content.text;
  const content = { type: "text", text: `model on ${said}` };
  return { role: "assistant", model: "m", content };
});
client.setRequestHandler(ElicitRequestSchema, async (request) => {
  const wanted = Object.keys(request.params.requestedSchema.required ?? []).length
    ? request.params.requestedSchema.required
    : Object.keys(request.params.requestedSchema.properties);
  const content = Object.fromEntries(wanted.map((name) => [name, `my ${name}`]));
  return { action: "accept", content };
});
client.setRequestHandler(ListRootsRequestSchema, async () => ({ roots: [{ uri: root }] }));
client.fallbackNotificationHandler = async (notification) => {
  told.push(notification.method);
};

async function done({ act, ...rest }) {
  switch (act) {
    case "tools":
      return (await client.listTools()).tools.map((tool) => tool.name);
    case "prompts":
      return (await client.listPrompts()).prompts.map((prompt) => prompt.name);
    case "resources":
      return (await client.listResources()).resources.map((resource) => resource.uri);
    case "read":
      return (await client.readResource(rest)).contents[0];
    case "prompt":
      return (await client.getPrompt(rest)).messages;
    case "complete":
      return (await client.complete(rest)).completion.values;
    case "level":
      return await client.setLoggingLevel(rest.level);
    case "call":
      return await client.callTool(rest, undefined, { onprogress: (one) => progress.push(one) });
    case "cancel": {
      const controller = new AbortController();
      const { signal } = controller;
      const onprogress = () => controller.abort("enough");
      return await client.callTool(rest, undefined, { signal, onprogress }).catch(String);
    }
    case "until":
      for (;;) {
        const answer = await client.callTool({ name: rest.name });
        if (answer.content[0].text.includes(rest.word)) return answer;
      }
    case "told":
      while (!told.includes(rest.method)) await new Promise((wake) => setTimeout(wake, 10));
      return true;
  }
  throw new Error(`no such act: ${act}`);
}

const transport = url.pathname.endsWith("/sse")
  ? new SSEClientTransport(url)
  : new StreamableHTTPClientTransport(url);
await client.connect(transport);
const answers = [];
for (const step of JSON.parse(program)) answers.push(await done(step));
if (transport.terminateSession) await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ answers, progress, told }));
