// Timers, immediates and `process.nextTick`.
//
// The event loop is in Rust (`jobs.rs`): it drains the microtasks, then calls `step`, which runs one callback
// that is due. A binary heap orders the timers by time and, among equals, by age.

const { invalidArgument } = require('errors');

const MAX_DELAY_MS = 2 ** 31 - 1;
const IDLE = -1;
const RAN = 0;

// Entries { timer, at, order }. An entry that is not its timer's own any more is stale: cleared or set anew.
let heap = [];
let immediates = [];
let ticks = [];
let nextId = 1;
let nextOrder = 1;
// Timers by number, for `clearTimeout(+timer)`.
const active = new Map();

const before = (a, b) => a.at < b.at || (a.at === b.at && a.order < b.order);
const isStale = (entry) => entry.timer.entry !== entry;

function push(entry) {
  let index = heap.push(entry) - 1;
  while (index > 0) {
    const parent = (index - 1) >> 1;
    if (!before(entry, heap[parent])) break;
    heap[index] = heap[parent];
    index = parent;
  }
  heap[index] = entry;
}

function pop() {
  const first = heap[0];
  const last = heap.pop();
  if (heap.length > 0) sink(last);
  return first;
}

function sink(entry) {
  let index = 0;
  for (;;) {
    let child = 2 * index + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child += 1;
    if (!before(heap[child], entry)) break;
    heap[index] = heap[child];
    index = child;
  }
  heap[index] = entry;
}

// What the heap needs to know of a timer; the program sees only a `Timeout`.
class Timer {
  constructor(callback, delay, repeats, args) {
    this.id = nextId++;
    this.callback = callback;
    this.args = args;
    this.delay = delay >= 1 && delay <= MAX_DELAY_MS ? Math.trunc(delay) : 1;
    this.repeats = repeats;
    this.referenced = true;
    this.schedule();
  }

  schedule() {
    this.entry = { timer: this, at: host.monotonicMs() + this.delay, order: nextOrder++ };
    active.set(this.id, this);
    push(this.entry);
  }

  stop() {
    this.entry = undefined;
    active.delete(this.id);
  }

  run(handle) {
    const { entry } = this;
    try {
      this.callback.apply(handle, this.args);
    } finally {
      const untouched = this.entry === entry;
      if (untouched && this.repeats) this.schedule();
      else if (untouched) this.stop();
    }
  }
}

class Timeout {
  #timer;

  constructor(...args) {
    this.#timer = new Timer(...args);
    this.#timer.handle = this;
  }

  close() {
    this.#timer.stop();
    return this;
  }

  refresh() {
    if (this.#timer.entry) this.#timer.schedule();
    return this;
  }

  ref() {
    this.#timer.referenced = true;
    return this;
  }

  unref() {
    this.#timer.referenced = false;
    return this;
  }

  hasRef() {
    return this.#timer.referenced;
  }

  [Symbol.toPrimitive]() {
    return this.#timer.id;
  }
}

class Immediate {
  #callback;
  #args;

  constructor(callback, args) {
    this.#callback = callback;
    this.#args = args;
  }

  run() {
    this.#callback?.(...this.#args);
  }

  close() {
    this.#callback = undefined;
    return this;
  }
}

function checkCallback(callback) {
  if (typeof callback !== 'function') throw invalidArgument('callback', 'of type function', callback);
}

function setTimeout(callback, delay, ...args) {
  checkCallback(callback);
  return new Timeout(callback, Number(delay), false, args);
}

function setInterval(callback, delay, ...args) {
  checkCallback(callback);
  return new Timeout(callback, Number(delay), true, args);
}

function setImmediate(callback, ...args) {
  checkCallback(callback);
  const immediate = new Immediate(callback, args);
  immediates.push(immediate);
  return immediate;
}

function clear(timer) {
  const isHandle = timer instanceof Timeout || timer instanceof Immediate;
  const found = isHandle ? timer : active.get(Number(timer))?.handle;
  found?.close();
}

function nextTick(callback, ...args) {
  checkCallback(callback);
  ticks.push(() => callback(...args));
}

// A rejected promise carries what the callback throws to the uncaught errors.
function queueMicrotask(callback) {
  checkCallback(callback);
  resolved.then(() => void callback());
}

const resolved = Promise.resolve();

function runTicks() {
  if (ticks.length === 0) return false;
  while (ticks.length > 0) {
    const batch = ticks;
    ticks = [];
    for (const tick of batch) tick();
  }
  return true;
}

// Runs one callback. Returns 0, or the time in ms until there is one to run, or -1 if there will be none.
function step() {
  while (heap.length > 0 && isStale(heap[0])) pop();
  const due = heap.length > 0 ? heap[0].at - host.monotonicMs() : Infinity;
  if (due <= 0) {
    const { timer } = pop();
    timer.run(timer.handle);
    return RAN;
  }
  if (immediates.length > 0) {
    immediates.shift().run();
    return RAN;
  }
  // A timer that was unreferenced does not keep the execution alive.
  return heap.some((entry) => entry.timer.referenced && !isStale(entry)) ? due : IDLE;
}

// Nothing of an execution that has ended runs in a later one.
function reset() {
  heap = [];
  immediates = [];
  ticks = [];
  active.clear();
}

function abortable(signal, start) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = start(resolve);
    signal?.addEventListener('abort', () => {
      stop();
      reject(signal.reason);
    });
  });
}

const promises = {
  setTimeout: (delay, value, options) =>
    abortable(options?.signal, (resolve) => {
      const timer = setTimeout(resolve, delay, value);
      return () => timer.close();
    }),
  setImmediate: (value, options) =>
    abortable(options?.signal, (resolve) => {
      const immediate = setImmediate(resolve, value);
      return () => immediate.close();
    }),
  async *setInterval(delay, value, options) {
    for (;;) yield promises.setTimeout(delay, value, options);
  },
  scheduler: {
    wait: (delay, options) => promises.setTimeout(delay, undefined, options),
    yield: () => promises.setImmediate(),
  },
};

module.exports = {
  setTimeout,
  setInterval,
  setImmediate,
  clearTimeout: clear,
  clearInterval: clear,
  clearImmediate: clear,
  queueMicrotask,
  nextTick,
  promises,
  runTicks,
  step,
  reset,
};
