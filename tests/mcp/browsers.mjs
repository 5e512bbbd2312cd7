// Stock Playwright and Puppeteer drive a session's browser by its CDP endpoint, once with a link and once with a key.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

const [site, client, link, endpoint, key] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${key}` };

async function withPlaywright() {
  const browser = await chromium.connectOverCDP(link);
  const page = browser.contexts()[0].pages()[0];
  await page.goto(site);
  await page.getByLabel("Name").fill("Grace");
  await page.getByRole("button", { name: "Send" }).click();
  await page.waitForURL("**/sent?*");
  assert.equal(await page.textContent("p"), "who=Grace");
  assert.equal((await page.screenshot()).subarray(1, 4).toString(), "PNG");
  await assert.rejects(page.goto("file:///etc/passwd"), /not opened here/);
  const other = await browser.contexts()[0].newPage();
  await other.goto(site);
  assert.equal(await other.evaluate(() => document.title), "Order");
  await other.close();
  await browser.close();

  const again = await chromium.connectOverCDP(endpoint, { headers });
  assert.equal(await again.contexts()[0].pages()[0].title(), "Sent");
  await again.close();
}

async function withPuppeteer() {
  const options = { defaultViewport: null };
  const browser = await puppeteer.connect({ ...options, browserWSEndpoint: link });
  const [page] = await browser.pages();
  await page.goto(site);
  await page.locator("input[name=who]").fill("Edsger");
  await Promise.all([page.waitForNavigation(), page.click("button")]);
  assert.equal(await page.$eval("p", (p) => p.textContent), "who=Edsger");
  assert.equal(Buffer.from(await page.screenshot()).subarray(1, 4).toString(), "PNG");
  await assert.rejects(page.goto("file:///etc/passwd"), /not opened here/);
  const other = await browser.newPage();
  await other.goto(site);
  assert.equal(await other.evaluate(() => document.title), "Order");
  await other.setRequestInterception(true);
  other.on("request", (request) => request.respond({ body: "<title>Made up</title>", contentType: "text/html" }));
  await other.goto(`${site}made-up`);
  assert.equal(await other.title(), "Made up");
  await other.close();
  const context = await browser.createBrowserContext();
  const apart = await context.newPage();
  await apart.goto(site);
  await context.close();
  await browser.disconnect();

  const again = await puppeteer.connect({ ...options, browserWSEndpoint: endpoint, headers });
  assert.equal(await (await again.pages())[0].title(), "Sent");
  // Closes its connection; the browser is the session's.
  await again.close();
}

await { playwright: withPlaywright, puppeteer: withPuppeteer }[client]();
console.log(`ok: ${client}, Node`);
process.exit(0);
