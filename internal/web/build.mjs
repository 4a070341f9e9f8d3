// Builds what browsers load into the folder that is named: node build.mjs static
import { build } from "esbuild";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const to = process.argv[2];
const common = { bundle: true, minify: true, target: ["chrome123", "firefox121", "safari17.5"], legalComments: "none", charset: "utf8", logLevel: "warning" };
await build({ ...common, entryPoints: ["ts/app.ts"], outfile: join(to, "app.js"), format: "iife" });
await build({ ...common, entryPoints: ["css/slipcover.css"], outfile: join(to, "slipcover.css") });
copyFileSync("node_modules/htmx.org/dist/htmx.min.js", join(to, "htmx.min.js"));
const version = JSON.parse(readFileSync("node_modules/htmx.org/package.json", "utf8")).version;
writeFileSync(join(to, "htmx.LICENSE"), `htmx.min.js is htmx ${version}, https://htmx.org, as its package on npm has it.\n\n` + readFileSync("node_modules/htmx.org/LICENSE", "utf8"));
