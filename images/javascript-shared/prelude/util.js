// `util`.

const { inspect, format } = require('inspect');
const { invalidArgument } = require('errors');
const { deepEqual } = require('equal');
const { TextEncoder, TextDecoder } = require('encoding');

const promisified = Symbol.for('nodejs.util.promisify.custom');

function promisify(original) {
  if (typeof original !== 'function') throw invalidArgument('original', 'of type function', original);
  if (original[promisified]) return original[promisified];
  return function (...args) {
    return new Promise((resolve, reject) => {
      original.call(this, ...args, (error, value) => (error ? reject(error) : resolve(value)));
    });
  };
}
promisify.custom = promisified;

function callbackify(original) {
  return function (...args) {
    const callback = args.pop();
    original.apply(this, args).then(
      (value) => setTimeout(callback, 0, null, value),
      (error) => setTimeout(callback, 0, error ?? new Error('Promise was rejected with a falsy value')),
    );
  };
}

function inherits(constructor, parent) {
  Object.defineProperty(constructor, 'super_', { value: parent, writable: true, configurable: true });
  Object.setPrototypeOf(constructor.prototype, parent.prototype);
}

const classOf = (sample) => {
  const id = host.classId(sample);
  return (value) => host.classId(value) === id;
};

const types = {
  isMap: classOf(new Map()),
  isSet: classOf(new Set()),
  isDate: classOf(new Date()),
  isRegExp: classOf(/x/),
  isNativeError: classOf(new Error()),
  isWeakMap: classOf(new WeakMap()),
  isWeakSet: classOf(new WeakSet()),
  isArrayBuffer: classOf(new ArrayBuffer(0)),
  isAnyArrayBuffer: classOf(new ArrayBuffer(0)),
  isPromise: (value) => host.promiseState(value) !== undefined,
  isProxy: (value) => host.proxyTarget(value) !== undefined,
  isTypedArray: (value) => ArrayBuffer.isView(value) && !(value instanceof DataView),
  isUint8Array: (value) => value instanceof Uint8Array,
  isAsyncFunction: (value) =>
    typeof value === 'function' && Object.getPrototypeOf(value) === Object.getPrototypeOf(async () => {}),
  isGeneratorFunction: (value) =>
    typeof value === 'function' && Object.getPrototypeOf(value) === Object.getPrototypeOf(function* () {}),
};

// Called once, and then only the function itself.
function deprecate(original, message) {
  let warned = false;
  return function (...args) {
    if (!warned) console.warn(`DeprecationWarning: ${message}`);
    warned = true;
    return new.target ? new original(...args) : original.apply(this, args);
  };
}

module.exports = {
  inspect,
  format,
  formatWithOptions: (options, ...args) => format(...args),
  promisify,
  callbackify,
  inherits,
  deprecate,
  types,
  isDeepStrictEqual: (a, b) => deepEqual(a, b, true),
  stripVTControlCharacters: (text) => text.replace(/\u001b\[[0-9;]*[A-Za-z]/g, ''),
  isArray: Array.isArray,
  TextEncoder,
  TextDecoder,
};
