// Rich results: the value of the program, and what `display` shows on the way.

const { codeError } = require('errors');
const { inspect, lookUp } = require('inspect');

const { stringify } = JSON;
const DISPLAY = Symbol.for('Jupyter.display');
const MAX_RESULT_BYTES = 1024 * 1024;
// A JSON form beside the text is for programs that read results; beyond this they should write a file.
const MAX_JSON_BYTES = 64 * 1024;
const MAX_JSON_NODES = 10000;
const MAX_JSON_DEPTH = 100;

// Whether a value is of plain objects, arrays and primitives, all the way. Nothing of the program runs.
function isPlain(value, budget, depth) {
  budget.nodes += 1;
  if (budget.nodes > MAX_JSON_NODES || depth > MAX_JSON_DEPTH) return false;
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return true;
  if (typeof value === 'number') return Number.isFinite(value);
  if (typeof value !== 'object' || host.proxyTarget(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  const plain = Array.isArray(value)
    ? prototype === Array.prototype
    : prototype === Object.prototype || prototype === null;
  if (!plain || typeof lookUp(value, 'toJSON') === 'function' || Object.getOwnPropertySymbols(value).length > 0)
    return false;
  if (Array.isArray(value) && value.length !== Object.keys(value).length) return false;
  return Object.values(Object.getOwnPropertyDescriptors(value)).every(
    (descriptor) => !descriptor.enumerable || ('value' in descriptor && isPlain(descriptor.value, budget, depth + 1)),
  );
}

function jsonOf(value) {
  if (typeof value !== 'object' || value === null || !isPlain(value, { nodes: 0 }, 0)) return undefined;
  const json = stringify(value);
  return json.length <= MAX_JSON_BYTES ? value : undefined;
}

// Kinds of content by name, as Jupyter has it, or undefined for a value that shows itself as text.
function richBundle(value) {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return undefined;
  const method = lookUp(value, DISPLAY);
  if (typeof method !== 'function') return undefined;
  const bundle = method.call(value);
  return typeof bundle === 'object' && bundle !== null ? { ...bundle } : undefined;
}

function textBundle(value) {
  const bundle = { 'text/plain': inspect(value) };
  const json = jsonOf(value);
  if (json !== undefined) bundle['application/json'] = json;
  return bundle;
}

// The emitted JSON. The cap counts UTF-8, of which a character of a string has at most three bytes.
function result(main, mime) {
  const json = stringify({ main, mime }).toWellFormed();
  const bytes = json.length > MAX_RESULT_BYTES / 3 ? host.utf8Encode(json).length : json.length;
  if (bytes <= MAX_RESULT_BYTES) return json;
  throw codeError(
    RangeError,
    'ERR_RESULT_TOO_LARGE',
    `the result has ${bytes} bytes; a result may have at most ${MAX_RESULT_BYTES} (1 MiB). Write large data to a file.`,
  );
}

const render = (value) => (value === undefined ? undefined : result(true, richBundle(value) ?? textBundle(value)));

function display(...values) {
  for (const value of values) host.emitResult(result(false, richBundle(value) ?? textBundle(value)));
}

// A bundle as it is: display.mime({ 'text/html': '<b>x</b>' }), and the kinds that programs use most.
display.mime = (bundle) => host.emitResult(result(false, { ...bundle }));
display.html = (html) => display.mime({ 'text/html': `${html}` });
display.markdown = (markdown) => display.mime({ 'text/markdown': `${markdown}` });
display.svg = (svg) => display.mime({ 'image/svg+xml': `${svg}` });

module.exports = { display, render };
