// Errors in Node's style, and what an uncaught one looks like from outside.

// Frames of the prelude, of native functions and of the script that drives an execution tell a reader nothing.
const OWN_FRAME = /^\s*at .*(\(node:internal\/[^)]*\)|\(native\)|^\s*at native)$/;

function codeError(Base, code, message) {
  const error = new Base(message);
  Object.defineProperty(error, 'code', { value: code, enumerable: true, writable: true, configurable: true });
  return error;
}

const invalidArgument = (name, expected, value) =>
  codeError(
    TypeError,
    'ERR_INVALID_ARG_TYPE',
    `The "${name}" argument must be ${expected}. Received ${typeName(value)}`,
  );

function typeName(value) {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'function') return `function ${value.name}`;
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`;
  return `type ${typeof value}`;
}

const inNative = 'is not available in the wasm JavaScript runtime; use the native runtime for it';
const unavailable = (what) => codeError(Error, 'ERR_UNAVAILABLE', `${what} ${inNative}`);

// Globals of Node and of browsers that need what a WASI guest has not. They stay undefined, because programs test
// for them with `typeof`; the report of a ReferenceError says what to do.
const MISSING_GLOBALS = [
  'BroadcastChannel',
  'Blob',
  'EventSource',
  'FormData',
  'Headers',
  'Intl',
  'MessageChannel',
  'ReadableStream',
  'Request',
  'Response',
  'SharedWorker',
  'WebAssembly',
  'WebSocket',
  'Worker',
  'WritableStream',
  'XMLHttpRequest',
  'document',
  'importScripts',
  'window',
];
const hints = new Map(
  MISSING_GLOBALS.map((name) => [`${name} is not defined`, `${name} is not defined: it ${inNative}`]),
);
const withHint = (message) => hints.get(message) ?? message;

// The stack without our own frames. Not a string, or a getter that throws: no stack.
function stackOf(error) {
  let stack;
  try {
    stack = error.stack;
  } catch {
    return '';
  }
  if (typeof stack !== 'string') return '';
  return stack
    .split('\n')
    .filter((line) => line.trim() !== '' && !OWN_FRAME.test(line))
    .join('\n');
}

module.exports = { codeError, invalidArgument, unavailable, withHint, stackOf };
