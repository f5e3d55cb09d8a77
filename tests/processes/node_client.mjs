// The official TypeScript client, in either era, over stdio or HTTP: node_client.mjs ERA URL-or-command...
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [mode, target, ...args] = process.argv.slice(2);
const transport = target.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(target))
  : new StdioClientTransport({ command: target, args, env: process.env });
const client = new Client({ name: "node", version: "1" }, { versionNegotiation: { mode } });
await client.connect(transport);
const { tools } = await client.listTools();
const echo = await client.callTool({ name: "echo", arguments: { text: "ü" } });
const progress = [];
await client.callTool(
  // The pause: this client loses progress that it reads together with the answer.
  { name: "talk", arguments: { messages: 3, pause: 0.2 } },
  { onprogress: ({ progress: done }) => progress.push(done) },
);
const controller = new AbortController();
setTimeout(() => controller.abort(), 200);
const aborted = await client
  .callTool({ name: "nap", arguments: { seconds: 600 } }, { signal: controller.signal })
  .catch(() => true);
const after = await client.callTool({ name: "echo", arguments: { text: "after" } });
const burst = await Promise.all(
  Array.from({ length: 50 }, (_, n) =>
    client.callTool({ name: "compute_hash", arguments: { data: `${n}` } }),
  ),
);
const hashes = new Set(burst.map((answer) => answer.structuredContent.data.hexdigest));
const era = client.getNegotiatedProtocolVersion?.() ?? null;
await client.close();
console.log(
  JSON.stringify({
    tools: tools.map((tool) => tool.name),
    echo: echo.content[0].text,
    progress,
    aborted,
    hashes: burst.some((answer) => answer.isError) ? "refused" : hashes.size,
    after: after.content[0].text,
    era,
  }),
);
