// Drives headless Chromium over the DevTools protocol on a pipe: no package is needed, only node and a browser.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const FLAGS = [
  "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
  "--disable-background-networking", "--disable-component-update", "--window-size=1300,1000", "about:blank",
];

// Starts the browser (`$CHROMIUM`, else `chromium`) and returns one tab of it.
export async function start() {
  const profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const child = spawn(process.env.CHROMIUM ?? "chromium", [`--user-data-dir=${profile}`, ...FLAGS], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const waiting = new Map();
  const listeners = [];
  let number = 0;
  let rest = "";
  child.stdio[4].setEncoding("utf8");
  child.stdio[4].on("data", (chunk) => {
    const parts = (rest + chunk).split("\0");
    rest = parts.pop();
    for (const part of parts) {
      const message = JSON.parse(part);
      const { accept, refuse } = waiting.get(message.id) ?? {};
      waiting.delete(message.id);
      if (message.error) refuse?.(new Error(message.error.message));
      else if (message.id) accept?.(message.result);
      else listeners.forEach((listener) => listener(message));
    }
  });
  child.on("exit", () => waiting.forEach(({ refuse }) => refuse(new Error("the browser ended"))));
  const send = (method, params = {}, sessionId = undefined) => new Promise((accept, refuse) => {
    waiting.set(++number, { accept, refuse });
    child.stdio[3].write(`${JSON.stringify({ id: number, method, params, sessionId })}\0`);
  });
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const tab = new Tab((method, params) => send(method, params, sessionId), listeners, sessionId);
  await tab.prepare();
  tab.close = async () => {
    await send("Browser.close").catch(() => {});
    await new Promise((done) => (child.exitCode === null ? child.on("exit", done) : done()));
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return tab;
}

class Tab {
  // Errors of the page's scripts, and addresses asked for that are not files or data.
  errors = [];
  requests = [];

  constructor(send, listeners, session) {
    this.send = send;
    listeners.push(({ method, params, sessionId }) => {
      if (sessionId !== session) return;
      if (method === "Runtime.exceptionThrown") this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      if (method === "Page.javascriptDialogOpening") {
        this.errors.push(`dialog: ${params.message}`);
        this.send("Page.handleJavaScriptDialog", { accept: true });
      }
      if (method === "Network.requestWillBeSent" && !/^(file|data|about|blob):/.test(params.request.url)) this.requests.push(params.request.url);
      if (method === "Page.loadEventFired") this.loaded?.();
    });
  }

  async prepare() {
    for (const domain of ["Page", "Runtime", "Network"]) await this.send(`${domain}.enable`);
  }

  // Opens a file with a hash; returns the milliseconds until its load event.
  async open(file, hash = "") {
    // A change of the hash alone would not load the page again.
    await this.go("about:blank");
    const start = performance.now();
    await this.go(pathToFileURL(resolve(file)).href + hash);
    return performance.now() - start;
  }

  async go(url) {
    const loaded = new Promise((accept) => { this.loaded = accept; });
    await this.send("Page.navigate", { url });
    await loaded;
  }

  // The value of an expression in the page.
  async run(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true, userGesture: true });
    if (exceptionDetails) throw new Error(`${exceptionDetails.exception?.description ?? exceptionDetails.text} in ${expression.slice(0, 200)}`);
    return result.value;
  }

  // Presses and releases a key.
  async press(key, modifiers = 0) {
    const digit = /^[0-9]$/.test(key);
    const code = digit ? `Digit${key}` : /^[a-z]$/i.test(key) ? `Key${key.toUpperCase()}` : key;
    const text = key === "Enter" ? "\r" : key.length === 1 ? key : undefined;
    const codes = { Enter: 13, Escape: 27, Tab: 9, Backspace: 8, ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39, ArrowDown: 40 };
    const windowsVirtualKeyCode = codes[key] ?? key.toUpperCase().charCodeAt(0);
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", key, code, text, modifiers, windowsVirtualKeyCode });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", key, code, modifiers, windowsVirtualKeyCode });
    await this.settle();
  }

  // Lets the page's timers of a tenth of a second pass.
  settle() {
    return this.run("new Promise((done) => setTimeout(done, 120))");
  }

  // Clicks in the middle of an element.
  async click(selector) {
    const { x, y } = await this.run(`(() => { const part = document.querySelector(${JSON.stringify(selector)}); part.scrollIntoView({ block: "center", behavior: "instant" }); const box = part.getBoundingClientRect(); return { x: box.left + box.width / 2, y: box.top + box.height / 2 }; })()`);
    for (const type of ["mousePressed", "mouseReleased"]) await this.send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    await this.settle();
  }

  async emulate({ scheme = "light", width = 1300, height = 1000, media = "" } = {}) {
    await this.send("Emulation.setEmulatedMedia", { media, features: [{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" }] });
    await this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
  }

  async screenshot(file, full = false) {
    const { data } = await this.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: full });
    writeFileSync(file, Buffer.from(data, "base64"));
  }
}
