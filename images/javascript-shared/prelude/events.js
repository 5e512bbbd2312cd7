// `events`: Node's EventEmitter.

const { codeError, invalidArgument } = require('errors');

class EventEmitter {
  static defaultMaxListeners = 10;

  // Created when needed: classes that extend this one need not call it first.
  #listeners;

  #of(event) {
    this.#listeners ??= new Map();
    return this.#listeners.get(event) ?? [];
  }

  #add(event, callback, once, first) {
    if (typeof callback !== 'function') throw invalidArgument('listener', 'of type function', callback);
    const known = this.#of(event);
    if (this.#of('newListener').length > 0) this.emit('newListener', event, callback);
    const listener = { callback, once };
    this.#listeners.set(event, first ? [listener, ...known] : [...known, listener]);
    return this;
  }

  on(event, callback) {
    return this.#add(event, callback, false, false);
  }

  once(event, callback) {
    return this.#add(event, callback, true, false);
  }

  prependListener(event, callback) {
    return this.#add(event, callback, false, true);
  }

  prependOnceListener(event, callback) {
    return this.#add(event, callback, true, true);
  }

  off(event, callback) {
    const known = this.#of(event);
    const index = known.findLastIndex((listener) => listener.callback === callback);
    if (index === -1) return this;
    this.#keep(event, known.toSpliced(index, 1));
    if (this.#of('removeListener').length > 0) this.emit('removeListener', event, callback);
    return this;
  }

  #keep(event, listeners) {
    if (listeners.length > 0) this.#listeners.set(event, listeners);
    else this.#listeners.delete(event);
  }

  removeAllListeners(event) {
    if (event === undefined) this.#listeners?.clear();
    else this.#listeners?.delete(event);
    return this;
  }

  emit(event, ...args) {
    const listeners = this.#of(event);
    if (listeners.length === 0) {
      if (event === 'error') throw unhandled(args[0]);
      return false;
    }
    for (const listener of listeners) {
      if (listener.once) this.off(event, listener.callback);
      listener.callback.apply(this, args);
    }
    return true;
  }

  listeners(event) {
    return this.#of(event).map((listener) => listener.callback);
  }

  rawListeners(event) {
    return this.listeners(event);
  }

  listenerCount(event) {
    return this.#of(event).length;
  }

  eventNames() {
    return [...(this.#listeners?.keys() ?? [])];
  }

  setMaxListeners() {
    return this;
  }

  getMaxListeners() {
    return EventEmitter.defaultMaxListeners;
  }
}

EventEmitter.prototype.addListener = EventEmitter.prototype.on;
EventEmitter.prototype.removeListener = EventEmitter.prototype.off;

function unhandled(error) {
  if (error instanceof Error) return error;
  const wrapped = codeError(Error, 'ERR_UNHANDLED_ERROR', `Unhandled error. (${String(error)})`);
  wrapped.context = error;
  return wrapped;
}

// The arguments of the next `event`; an `error` in the meantime rejects.
EventEmitter.once = (emitter, event) =>
  new Promise((resolve, reject) => {
    const fail = (error) => {
      emitter.off(event, done);
      reject(error);
    };
    const done = (...args) => {
      emitter.off('error', fail);
      resolve(args);
    };
    emitter.once(event, done);
    if (event !== 'error') emitter.once('error', fail);
  });

EventEmitter.EventEmitter = EventEmitter;

module.exports = EventEmitter;
