// What programs see as globals. Everything else of the prelude stays hidden from them.

const { unavailable } = require('errors');
const { console } = require('console');
const timers = require('timers');
const encoding = require('encoding');
const { URL, URLSearchParams } = require('url');
const { Event, CustomEvent, EventTarget, AbortController, AbortSignal } = require('dom-events');
const { structuredClone } = require('clone');
const { Buffer } = require('buffer');
const { process } = require('process');
const { display } = require('display');
const modules = require('modules');

function prompt(message = '', fallback = null) {
  if (message !== '') host.writeStdout(`${message} `.toWellFormed());
  return host.readStdinLine() ?? fallback;
}

const globals = {
  console,
  process,
  Buffer,
  display,
  prompt,
  require: modules.require,
  performance: modules.performance,
  crypto: require('crypto').webcrypto,
  global: globalThis,
  URL,
  URLSearchParams,
  Event,
  CustomEvent,
  EventTarget,
  AbortController,
  AbortSignal,
  structuredClone,
  TextEncoder: encoding.TextEncoder,
  TextDecoder: encoding.TextDecoder,
  atob: encoding.atob,
  btoa: encoding.btoa,
  setTimeout: timers.setTimeout,
  setInterval: timers.setInterval,
  setImmediate: timers.setImmediate,
  clearTimeout: timers.clearTimeout,
  clearInterval: timers.clearInterval,
  clearImmediate: timers.clearImmediate,
  queueMicrotask: timers.queueMicrotask,
};

for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });
}

// The engine's own generator is part of the snapshot, the same for every session.
Math.random = function random() {
  return host.random();
};
Object.defineProperty(Math, 'random', { enumerable: false });

// A function, since it is only called: its error tells more than "fetch is not defined".
async function fetch() {
  throw unavailable('fetch');
}
Object.defineProperty(globalThis, 'fetch', { value: fetch, writable: true, enumerable: false, configurable: true });
