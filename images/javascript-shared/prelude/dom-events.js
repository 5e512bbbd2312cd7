// `Event`, `EventTarget`, `AbortController`, `AbortSignal`.

const { setTimeout } = require('timers');
const { invalidArgument } = require('errors');

let setTarget;
let isStopped;

class Event {
  #target = null;
  #stopped = false;
  #prevented = false;

  static {
    setTarget = (event, target) => {
      event.#target = target;
    };
    isStopped = (event) => event.#stopped;
  }

  constructor(type, { bubbles = false, cancelable = false, composed = false } = {}) {
    const fixed = {
      type: `${type}`,
      bubbles,
      cancelable,
      composed,
      timeStamp: host.monotonicMs(),
      isTrusted: false,
      eventPhase: 0,
    };
    for (const [key, value] of Object.entries(fixed)) Object.defineProperty(this, key, { value, enumerable: true });
  }

  get target() {
    return this.#target;
  }

  get currentTarget() {
    return this.#target;
  }

  get defaultPrevented() {
    return this.#prevented;
  }

  preventDefault() {
    if (this.cancelable) this.#prevented = true;
  }

  stopPropagation() {}

  stopImmediatePropagation() {
    this.#stopped = true;
  }
}

class CustomEvent extends Event {
  constructor(type, options = {}) {
    super(type, options);
    Object.defineProperty(this, 'detail', { value: options.detail ?? null, enumerable: true });
  }
}

class EventTarget {
  #listeners = new Map();

  addEventListener(type, callback, options) {
    if (callback === null || callback === undefined) return;
    const { once = false, signal } = typeof options === 'object' && options !== null ? options : {};
    if (signal?.aborted) return;
    const listeners = this.#listeners.get(`${type}`) ?? [];
    if (listeners.some((listener) => listener.callback === callback)) return;
    this.#listeners.set(`${type}`, [...listeners, { callback, once }]);
    signal?.addEventListener('abort', () => this.removeEventListener(type, callback));
  }

  removeEventListener(type, callback) {
    const listeners = this.#listeners.get(`${type}`) ?? [];
    this.#listeners.set(
      `${type}`,
      listeners.filter((listener) => listener.callback !== callback),
    );
  }

  dispatchEvent(event) {
    if (!(event instanceof Event)) throw invalidArgument('event', 'an instance of Event', event);
    setTarget(event, this);
    for (const { callback, once } of this.#listeners.get(event.type) ?? []) {
      if (once) this.removeEventListener(event.type, callback);
      if (typeof callback === 'function') callback.call(this, event);
      else callback.handleEvent(event);
      if (isStopped(event)) break;
    }
    return !event.defaultPrevented;
  }
}

let abort;

class AbortSignal extends EventTarget {
  #aborted = false;
  #reason;
  onabort = null;

  static {
    abort = (signal, reason) => {
      if (signal.#aborted) return;
      signal.#aborted = true;
      signal.#reason = reason ?? new DOMException('This operation was aborted', 'AbortError');
      const event = new Event('abort');
      setTarget(event, signal);
      signal.onabort?.(event);
      signal.dispatchEvent(event);
    };
  }

  static abort(reason) {
    const signal = new AbortSignal();
    abort(signal, reason);
    return signal;
  }

  static timeout(delay) {
    const signal = new AbortSignal();
    const expire = () => abort(signal, new DOMException('The operation was aborted due to timeout', 'TimeoutError'));
    setTimeout(expire, delay).unref();
    return signal;
  }

  static any(signals) {
    const combined = new AbortSignal();
    for (const signal of signals) {
      if (signal.aborted) abort(combined, signal.reason);
      else signal.addEventListener('abort', () => abort(combined, signal.reason), { once: true });
    }
    return combined;
  }

  get aborted() {
    return this.#aborted;
  }

  get reason() {
    return this.#reason;
  }

  throwIfAborted() {
    if (this.#aborted) throw this.#reason;
  }
}

class AbortController {
  signal = new AbortSignal();

  abort(reason) {
    abort(this.signal, reason);
  }
}

module.exports = { Event, CustomEvent, EventTarget, AbortSignal, AbortController };
