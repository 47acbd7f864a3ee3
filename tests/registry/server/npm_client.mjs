// What @huggingface/hub does against a Hub, printed as JSON: node npm_client.mjs MODULE URL TOKEN
import { createRequire } from "node:module";

const [modules, hubUrl, accessToken] = process.argv.slice(2);
const hub = createRequire(`${modules}/`)("@huggingface/hub");
const repo = { type: "model", name: "ann/from-js" };
const at = { repo, hubUrl, accessToken };
const found = {};

async function all(generator) {
  const items = [];
  for await (const item of generator) items.push(item);
  return items;
}

async function status(promise) {
  try {
    await promise;
    return 200;
  } catch (error) {
    return error.statusCode;
  }
}

found.whoami = (await hub.whoAmI({ hubUrl, accessToken })).name;
await hub.createRepo({ ...at });
found.again = await status(hub.createRepo({ ...at }));
found.exists = [await hub.repoExists(at), await hub.repoExists({ ...at, repo: "ann/absent" })];
const small = new Blob(["hello from js\n"]);
const large = new Blob([new Uint8Array(10000).map((_, i) => i % 251)]);
const first = await hub.uploadFiles({
  ...at,
  files: [
    { path: "dir/small.txt", content: small },
    { path: "large.bin", content: large },
    { path: "one", content: new Blob(["x"]) },
  ],
  commitTitle: "from js",
});
found.commit = first.commit.oid;
found.stale = await status(
  hub.uploadFile({ ...at, file: { path: "a", content: small }, parentCommit: "0".repeat(40) }),
);
found.files = (await all(hub.listFiles({ ...at, recursive: true }))).map((f) => [f.type, f.path, f.size]);
found.paths = (await hub.pathsInfo({ ...at, paths: ["large.bin", "absent"] })).map((p) => p.lfs.oid);
found.small = await (await hub.downloadFile({ ...at, path: "dir/small.txt" })).text();
found.one = await (await hub.downloadFile({ ...at, path: "one" })).text();
found.large = (await (await hub.downloadFile({ ...at, path: "large.bin" })).arrayBuffer()).byteLength;
found.info = await hub.fileDownloadInfo({ ...at, path: "large.bin" });
found.absent = await hub.downloadFile({ ...at, path: "absent" });
await hub.createBranch({ ...at, branch: "feat/js" });
await hub.uploadFile({ ...at, branch: "feat/js", file: { path: "on-branch.txt", content: small } });
found.branch = [
  await hub.fileExists({ ...at, path: "on-branch.txt", revision: "feat/js" }),
  await hub.fileExists({ ...at, path: "on-branch.txt" }),
];
await hub.deleteBranch({ ...at, branch: "feat/js" });
await hub.deleteFiles({ ...at, paths: ["one"] });
found.commits = (await all(hub.listCommits(at))).map((c) => [c.title, c.authors[0].username]);
found.model = (await hub.modelInfo({ name: repo.name, hubUrl, accessToken, additionalFields: ["sha"] })).sha;
found.models = (await all(hub.listModels({ hubUrl, search: { owner: "ann" } }))).map((m) => m.name);
await hub.deleteRepo(at);
found.gone = await hub.repoExists(at);
console.log(JSON.stringify(found));
