// Opens the reports in a folder and compares what they show with the JSON beside them. A third argument names a
// folder for screenshots.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [executablePath, folder, shots] = process.argv.slice(2);
const read = (name) => JSON.parse(fs.readFileSync(path.join(folder, name), "utf8"));
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

const count = (value) => value.toLocaleString("en-US");

/// Opens a page and hands it to `check`; any error, message or request to elsewhere fails.
const visit = async (file, name, options, check) => {
  const context = await browser.newContext({ deviceScaleFactor: 1, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on("console", (message) => faults.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("request", (request) => /^(file|data):/.test(request.url()) || faults.push(request.url()));
  page.on("dialog", (dialog) => { faults.push(`dialog ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(pathToFileURL(file).href);
  await page.waitForSelector("html[data-ready=yes]", { state: "attached", timeout: 20000 });
  await check(page);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wide <= 0, `${name}: ${wide} pixels too wide`);
  if (shots) await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
  assert.deepEqual(faults, [], name);
  await context.close();
};

/// Whether every chart has drawn something.
const drawn = (page) => page.evaluate(() => [...document.querySelectorAll("canvas")].map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return canvas.width > 50 && data.some((value, i) => i % 4 === 3 && value > 0);
}));

const rows = async (page, title, summary) => {
  const section = page.locator("section", { has: page.locator("h2", { hasText: new RegExp(`^${title}$`) }) });
  if (summary) await section.locator("summary").nth(summary.nth ?? 0).click();
  const found = section.locator("table").nth(summary ? summary.table ?? 0 : 0).locator("tbody tr");
  // A table is made when it is opened, which takes a moment.
  await found.first().waitFor();
  return found.evaluateAll((list) =>
    list.map((row) => [...row.cells].map((cell) => cell.textContent)));
};

const report = read("report.json");
const shown = async (page, report) => {
  const cards = await page.locator(".card").evaluateAll((list) => list.map((c) => [c.dataset.card, c.title]));
  const card = Object.fromEntries(cards);
  assert.equal(card.bytes, `${count(report.model.bytes)} to ${count(report.output.bytes)}`);
  assert.equal(card.params, `${count(report.model.params)} to ${count(report.output.params)}`);
  assert.equal(card.MACs, `${count(report.model.macs)} to ${count(report.output.macs)}`);
  assert.ok(card[report.metric.name].startsWith(`${report.metric.original} to ${report.metric.written} on `));
  const layers = await rows(page, "Layers");
  assert.deepEqual(layers.map((r) => r[0]), report.layers.map((l) => l.name));
  assert.deepEqual(layers.map((r) => r[6]), report.layers.map((l) => count(l.params_after)));
  assert.ok((await drawn(page)).every((done) => done), "an empty chart");
};

const file = path.join(folder, "report.html");
for (const [name, options] of [
  ["light", { colorScheme: "light", viewport: { width: 1280, height: 900 } }],
  ["dark", { colorScheme: "dark", viewport: { width: 1280, height: 900 } }],
  ["phone", { colorScheme: "light", viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 }],
]) {
  await visit(file, name, options, (page) => shown(page, report));
}

await visit(file, "tables", { viewport: { width: 1280, height: 900 } }, async (page) => {
  assert.ok(report.search.trials.length > 1 && report.training.stages[0].checks.length > 1);
  const trials = await rows(page, "Search", {});
  assert.deepEqual(trials.map((r) => Number(r[0])), report.search.trials.map((t) => t.evaluation));
  const checks = await rows(page, "Training", {});
  assert.deepEqual(checks.map((r) => r[0]), report.training.stages[0].checks.map((c) => count(c.step)));
  const spectra = await rows(page, "Spectra and cuts", {});
  assert.equal(spectra.length, report.layers.reduce((n, l) => n + (l.spectrum && l.spectrum.ranks.length > 1 ? l.spectrum.ranks.length : 0), 0));
  // A title that is chosen sorts, once more the other way.
  const title = page.locator("section", { has: page.locator("h2", { hasText: /^Layers$/ }) }).getByRole("button", { name: "params before" });
  const sorted = report.layers.map((l) => l.params_before).sort((a, b) => b - a).map(count);
  await title.click();
  assert.deepEqual((await rows(page, "Layers")).map((r) => r[5]), sorted);
  await title.click();
  assert.deepEqual((await rows(page, "Layers")).map((r) => r[5]), sorted.toReversed());
  // The pointer over a bar tells about it.
  const canvas = page.locator("canvas").first();
  const before = await canvas.screenshot();
  const box = await canvas.boundingBox();
  await page.mouse.move(box.x + box.width / 3, box.y + box.height * 0.7);
  await page.waitForTimeout(200);
  assert.notDeepEqual(await canvas.screenshot(), before, "no tooltip");
  const pdf = await page.pdf({ format: "A4" });
  assert.ok(pdf.length > 20000, "an empty print");
  if (shots) fs.writeFileSync(path.join(shots, "print.pdf"), pdf);
});

// Names that would be markup are text.
const hostile = "</script><img src=x onerror=alert(1)><script>alert(2)</script>";
const text = fs.readFileSync(file, "utf8");
const [head, data, tail] = /^(.*id="data">)(.*?)(<\/script>.*)$/s.exec(text).slice(1);
const changed = JSON.parse(data);
for (const layer of changed.report.layers) layer.name = hostile;
changed.report.model.name = changed.report.warnings[0] = hostile;
const bad = path.join(folder, "hostile.html");
fs.writeFileSync(bad, head + JSON.stringify(changed).replaceAll("<", "\\u003c") + tail);
await visit(bad, "hostile", {}, async (page) => {
  assert.equal(await page.locator("img").count(), 0);
  assert.equal((await rows(page, "Layers"))[0][0], hostile);
});

const front = read("front.json");
await visit(path.join(folder, "sweep", "report.html"), "sweep", { viewport: { width: 1280, height: 900 } }, async (page) => {
  const points = await rows(page, "The front");
  assert.deepEqual(points.map((r) => r[5]), front.points.map((p) => (p.bytes === null ? "–" : count(p.bytes))));
  assert.ok(points[2][4].startsWith("out of reach"));
  await page.selectOption("#which", { index: 1 });
  const bytes = await page.locator("#point [data-card=bytes]").getAttribute("title");
  assert.equal(bytes, `${count(front.model.bytes)} to ${count(front.points[1].bytes)}`);
  assert.ok((await drawn(page)).every((done) => done), "an empty chart");
});
await visit(path.join(folder, "sweep", "report.html"), "sweep-phone", { viewport: { width: 390, height: 844 }, isMobile: true }, async () => {});
await browser.close();
console.log("reports in Chromium: right figures, no errors");
