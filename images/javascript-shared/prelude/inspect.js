// `util.inspect` and `util.format`: values as text, in Node's format.
//
// What a value is, the engine tells (`host.classId`); getters and proxy traps are never run. The program's own
// code runs in one place only: a `[util.inspect.custom]` method.

const { stackOf } = require('errors');

const custom = Symbol.for('nodejs.util.inspect.custom');

const defaults = {
  depth: 2,
  breakLength: 80,
  compact: 3,
  maxArrayLength: 100,
  maxStringLength: 10000,
  showHidden: false,
  sorted: false,
  getters: false,
};

// Text longer than this is cut in the middle of a value: no one reads it, and it would eat the memory.
const MAX_TEXT = 4 * 1024 * 1024;
const TOO_LARGE = 'the value is too large to be shown';
const KEY = /^[a-zA-Z_$][a-zA-Z_$0-9]*$/;
const NEEDS_ESCAPE =
  /[\x00-\x1f\x27\x5c\x7f-\x9f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const ESCAPED = new RegExp(NEEDS_ESCAPE.source, 'g');
const SHORT_ESCAPES = { '\b': '\\b', '\t': '\\t', '\n': '\\n', '\f': '\\f', '\r': '\\r', '\\': '\\\\' };

const TypedArray = Object.getPrototypeOf(Uint8Array);
const typedArrayLength = Object.getOwnPropertyDescriptor(TypedArray.prototype, 'length').get;
const symbolDescription = Object.getOwnPropertyDescriptor(Symbol.prototype, 'description').get;
const { toString: functionSource } = Function.prototype;
const { toISOString, getTime } = Date.prototype;
const { toString: regExpSource } = RegExp.prototype;
const mapEntries = Map.prototype.entries;
const setValues = Set.prototype.values;
const mapSize = Object.getOwnPropertyDescriptor(Map.prototype, 'size').get;
const setSize = Object.getOwnPropertyDescriptor(Set.prototype, 'size').get;

// Strings.

function quote(text) {
  let mark = "'";
  if (text.includes("'")) {
    if (!text.includes('"')) mark = '"';
    else if (!text.includes('`') && !text.includes('${')) mark = '`';
  }
  if (!NEEDS_ESCAPE.test(text)) return mark + text + mark;
  return mark + text.replace(ESCAPED, (c) => escape(c, mark)) + mark;
}

function escape(c, mark) {
  if (c === "'") return mark === "'" ? "\\'" : c;
  if (SHORT_ESCAPES[c]) return SHORT_ESCAPES[c];
  const code = c.charCodeAt(0);
  return code < 256
    ? `\\x${code.toString(16).toUpperCase().padStart(2, '0')}`
    : `\\u${code.toString(16).toUpperCase()}`;
}

function formatString(context, text) {
  let more = '';
  if (text.length > context.maxStringLength) {
    const left = text.length - context.maxStringLength;
    text = text.slice(0, context.maxStringLength);
    more = `... ${left} more character${left > 1 ? 's' : ''}`;
  }
  return quote(text) + more;
}

// Primitives.

const formatNumber = (value) => (Object.is(value, -0) ? '-0' : `${value}`);

function formatPrimitive(context, value) {
  switch (typeof value) {
    case 'string':
      return formatString(context, value);
    case 'number':
      return formatNumber(value);
    case 'bigint':
      return `${value}n`;
    case 'symbol':
      return formatSymbol(value);
    default:
      return `${value}`;
  }
}

const formatSymbol = (value) => `Symbol(${symbolDescription.call(value) ?? ''})`;

// Names. A constructor's name is found along the prototypes without running a getter.

function ownValue(object, key) {
  const descriptor = Object.getOwnPropertyDescriptor(object, key);
  return descriptor && 'value' in descriptor ? descriptor.value : undefined;
}

function constructorName(object) {
  for (let at = object; at !== null; at = Object.getPrototypeOf(at)) {
    if (host.proxyTarget(at)) return null;
    const constructor = ownValue(at, 'constructor');
    if (typeof constructor === 'function') {
      const name = ownValue(constructor, 'name');
      if (typeof name === 'string' && name !== '') return name;
    }
  }
  return null;
}

function tagOf(object, name) {
  for (let at = object; at !== null; at = Object.getPrototypeOf(at)) {
    if (host.proxyTarget(at)) return '';
    const tag = ownValue(at, Symbol.toStringTag);
    if (typeof tag === 'string') return tag !== '' && tag !== name ? tag : '';
  }
  return '';
}

function prefix(name, tag, fallback, size) {
  const shown = (name ?? `[${fallback}: null prototype]`) + (size === undefined ? '' : `(${size})`);
  return tag ? `${shown} [${tag}] ` : `${shown} `;
}

// Kinds of objects by the engine's class, each with its own formatter. A formatter gives
// { open, close, base, entries, array }: brackets, a text before them, and the entries besides the keys.

const kinds = new Map();

function kind(sample, formatter) {
  kinds.set(host.classId(sample), formatter);
}

kind({}, plain);
kind([], (context, value, name, tag) => {
  const shown = name === 'Array' && !tag ? '' : prefix(name, tag, 'Array', value.length);
  return { open: `${shown}[`, close: ']', entries: () => arrayEntries(context, value), array: true };
});
kind(new Map(), (context, value, name, tag) => {
  const size = mapSize.call(value);
  return { open: `${prefix(name, tag, 'Map', size)}{`, close: '}', entries: () => mapItems(context, value) };
});
kind(new Set(), (context, value, name, tag) => {
  const size = setSize.call(value);
  return { open: `${prefix(name, tag, 'Set', size)}{`, close: '}', entries: () => setItems(context, value) };
});
kind(new Date(), (context, value, name, tag) =>
  withBase(Number.isNaN(getTime.call(value)) ? 'Invalid Date' : toISOString.call(value)),
);
kind(/x/, (context, value) => withBase(regExpSource.call(value)));
const domExceptionClass = host.classId(new DOMException());
for (const sample of [new Error(), new DOMException()]) {
  kind(sample, (context, value, name) =>
    withBase(formatError(context, value, name), ['stack', 'message', 'name', 'cause', 'errors']),
  );
}
kind(Promise.resolve(), (context, value, name, tag) => ({
  open: `${prefix(name, tag === 'Promise' ? '' : tag, 'Promise')}{`,
  close: '}',
  entries: () => promiseItems(context, value),
}));
kind(new WeakMap(), (context, value, name) => opaque(prefix(name, '', 'WeakMap')));
kind(new WeakSet(), (context, value, name) => opaque(prefix(name, '', 'WeakSet')));
kind(new WeakRef({}), (context, value, name) => opaque(prefix(name, '', 'WeakRef')));
kind(new Number(0), (context, value) => boxed('Number', formatNumber(Number.prototype.valueOf.call(value))));
kind(new String(''), (context, value) => ({
  ...boxed('String', quote(String.prototype.valueOf.call(value))),
  skipIndexes: true,
}));
kind(new Boolean(false), (context, value) => boxed('Boolean', `${Boolean.prototype.valueOf.call(value)}`));
kind(Object(Symbol()), (context, value) => boxed('Symbol', formatSymbol(Symbol.prototype.valueOf.call(value))));
kind(Object(0n), (context, value) => boxed('BigInt', `${BigInt.prototype.valueOf.call(value)}n`));
kind(new ArrayBuffer(0), (context, value, name) => ({
  open: `${name ?? 'ArrayBuffer'} {`,
  close: '}',
  entries: () => [`[Uint8Contents]: <${hexBytes(value)}>`, `byteLength: ${value.byteLength}`],
}));
kind(new DataView(new ArrayBuffer(0)), (context, value, name) => ({
  open: `${prefix(name, '', 'DataView')}{`,
  close: '}',
  entries: () => [
    `byteLength: ${value.byteLength}`,
    `byteOffset: ${value.byteOffset}`,
    `buffer: ${nested(context, value.buffer)}`,
  ],
}));
for (const sample of [
  (function () {
    return arguments;
  })(),
  new Function('return arguments')(),
]) {
  kind(sample, () => ({ open: '[Arguments] {', close: '}' }));
}
kind(new Map().entries(), (context, value) => ({ open: '[Map Iterator] {', close: '}' }));
kind(new Set().values(), (context, value) => ({ open: '[Set Iterator] {', close: '}' }));
kind((function* () {})(), (context, value) => ({ open: 'Object [Generator] {', close: '}' }));
kind((async function* () {})(), (context, value) => ({ open: 'Object [AsyncGenerator] {', close: '}' }));
for (const Type of [
  Uint8Array,
  Int8Array,
  Uint8ClampedArray,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
]) {
  kind(new Type(0), (context, value, name, tag) => {
    const length = typedArrayLength.call(value);
    return {
      open: `${prefix(name, '', Type.name, length)}[`,
      close: ']',
      entries: () => arrayEntries(context, value),
      array: true,
      skipIndexes: true,
    };
  });
}

function plain(context, value, name, tag) {
  const shown = name === 'Object' && !tag ? '' : prefix(name, tag, 'Object');
  return { open: `${shown}{`, close: '}' };
}

const withBase = (base, hidden = []) => ({ open: '{', close: '}', base, hidden });
const boxed = (name, text) => withBase(`[${name}: ${text}]`);
const opaque = (name) => ({ open: `${name}{`, close: '}', entries: () => ['<items unknown>'] });

function hexBytes(buffer) {
  const shown = new Uint8Array(buffer, 0, Math.min(50, buffer.byteLength));
  const text = Array.from(shown, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const left = buffer.byteLength - shown.length;
  return left > 0 ? `${text} ... ${left} more byte${left > 1 ? 's' : ''}` : text;
}

const functionClass = host.classId(function () {});

// Boa gives no source of a class. Of the functions of a program only classes have a prototype that stays.
const isClass = (value) =>
  functionSource.call(value).startsWith('class') ||
  (host.classId(value) === functionClass &&
    Object.getOwnPropertyDescriptor(value, 'prototype')?.writable === false);

function functionBase(value, name) {
  if (isClass(value)) return classBase(value, name);
  const type = name === null ? 'Function (null prototype)' : name;
  const own = ownValue(value, 'name');
  return `[${type}${typeof own === 'string' && own !== '' ? `: ${own}` : ' (anonymous)'}]`;
}

function classBase(value) {
  const own = ownValue(value, 'name');
  const parent = Object.getPrototypeOf(value);
  const parentName = typeof parent === 'function' ? ownValue(parent, 'name') : '';
  const shown = typeof own === 'string' && own !== '' ? own : '(anonymous)';
  return `[class ${shown}${parentName ? ` extends ${parentName}` : ''}]`;
}

// Errors: `Name: message` and the stack; a cause and the errors of an AggregateError follow as entries.

function formatError(context, error, name) {
  const stack = stackOf(error);
  const head = errorHead(error, name);
  const text = stack === '' ? `[${head}]` : `${head}\n${stack}`;
  return context.indentation === 0 ? text : text.replaceAll('\n', `\n${' '.repeat(context.indentation)}`);
}

function lookUp(object, key) {
  for (let at = object; at !== null; at = Object.getPrototypeOf(at)) {
    if (host.proxyTarget(at)) return undefined;
    const descriptor = Object.getOwnPropertyDescriptor(at, key);
    if (descriptor) return descriptor.value;
  }
  return undefined;
}

// A DOMException keeps its name and message behind getters, which are the engine's own.
function errorField(error, field) {
  if (host.classId(error) !== domExceptionClass) return lookUp(error, field);
  return Object.getOwnPropertyDescriptor(DOMException.prototype, field).get.call(error);
}

function errorHead(error, constructor) {
  let name = errorField(error, 'name');
  if (typeof name !== 'string' || name === '') name = 'Error';
  // A subclass that sets no name is told apart all the same.
  if (constructor && name.endsWith('Error') && constructor !== name) {
    name = constructor.includes(name) ? constructor : `${constructor} [${name}]`;
  }
  const message = errorField(error, 'message');
  if (message === undefined || message === '') return name;
  return `${name}: ${typeof message === 'string' ? message : safeString(message)}`;
}

function safeString(value) {
  return typeof value === 'object' || typeof value === 'function' ? inspect(value) : formatPrimitive(defaults, value);
}

// Entries of containers.

function nested(context, value) {
  context.level += 1;
  context.indentation += 2;
  try {
    return formatValue(context, value);
  } finally {
    context.level -= 1;
    context.indentation -= 2;
  }
}

const moreItems = (left) => `... ${left} more item${left > 1 ? 's' : ''}`;

function arrayEntries(context, array) {
  const { length } = array;
  const output = [];
  let holes = 0;
  let index = 0;
  const flushHoles = () => {
    if (holes > 0) output.push(`<${holes} empty item${holes > 1 ? 's' : ''}>`);
    holes = 0;
  };
  for (; index < length && output.length < context.maxArrayLength; index += 1) {
    const descriptor = Object.getOwnPropertyDescriptor(array, index);
    if (!descriptor) {
      // A sparse array may be long: what is left is holes as soon as no index is left.
      if (holes === 1000 && !Object.keys(array).some((key) => Number(key) > index)) {
        holes = length - index + holes;
        index = length;
        break;
      }
      holes += 1;
      continue;
    }
    flushHoles();
    output.push(formatDescriptor(context, descriptor));
  }
  flushHoles();
  if (index < length) output.push(moreItems(length - index));
  return output;
}

function mapItems(context, map) {
  const output = [];
  for (const [key, value] of mapEntries.call(map)) {
    if (output.length >= context.maxArrayLength) {
      output.push(moreItems(mapSize.call(map) - output.length));
      break;
    }
    output.push(`${nested(context, key)} => ${nested(context, value)}`);
  }
  return output;
}

function setItems(context, set) {
  const output = [];
  for (const value of setValues.call(set)) {
    if (output.length >= context.maxArrayLength) {
      output.push(moreItems(setSize.call(set) - output.length));
      break;
    }
    output.push(nested(context, value));
  }
  return output;
}

function promiseItems(context, promise) {
  const [state, value] = host.promiseState(promise);
  if (state === 'pending') return ['<pending>'];
  return [state === 'rejected' ? `<rejected> ${nested(context, value)}` : nested(context, value)];
}

// Properties.

function visibleKeys(context, value, shape) {
  let keys = context.showHidden ? Object.getOwnPropertyNames(value) : Object.keys(value);
  if (shape.array || shape.skipIndexes)
    keys = keys.filter((key) => !/^\d+$/.test(key) && (key !== 'length' || !context.showHidden));
  if (shape.hidden) keys = keys.filter((key) => !shape.hidden.includes(key));
  const symbols = Object.getOwnPropertySymbols(value);
  if (symbols.length > 0)
    keys.push(...symbols.filter((key) => Object.getOwnPropertyDescriptor(value, key)?.enumerable));
  if (context.sorted) keys.sort();
  return keys;
}

function formatKey(key) {
  if (typeof key === 'symbol') return `[${formatSymbol(key)}]`;
  return KEY.test(key) ? key : quote(key);
}

function formatDescriptor(context, descriptor) {
  if ('value' in descriptor) return nested(context, descriptor.value);
  if (descriptor.get) return descriptor.set ? '[Getter/Setter]' : '[Getter]';
  return descriptor.set ? '[Setter]' : 'undefined';
}

function formatProperty(context, object, key) {
  const descriptor = Object.getOwnPropertyDescriptor(object, key);
  return `${formatKey(key)}: ${descriptor ? formatDescriptor(context, descriptor) : 'undefined'}`;
}

// An error's cause and the errors of an AggregateError are not enumerable, and still what a reader needs.
function errorDetails(error) {
  const details = [];
  for (const key of ['cause', 'errors']) {
    const descriptor = Object.getOwnPropertyDescriptor(error, key);
    if (descriptor) details.push([key, descriptor]);
  }
  return details;
}

// Objects.

function formatValue(context, value) {
  if (typeof value !== 'object' && typeof value !== 'function') return formatPrimitive(context, value);
  if (value === null) return 'null';
  const target = host.proxyTarget(value);
  if (target) return formatValue(context, target);
  const customized = formatCustom(context, value);
  if (customized !== undefined) return customized;
  if (context.seen.includes(value)) {
    let index = context.circular.indexOf(value) + 1;
    if (index === 0) index = context.circular.push(value);
    return `[Circular *${index}]`;
  }
  return formatObject(context, value);
}

function formatCustom(context, value) {
  const method = lookUp(value, custom);
  if (typeof method !== 'function' || method === inspect) return undefined;
  const depth = context.depth - context.level;
  const result = method.call(value, depth, { ...context.options, depth }, inspect);
  if (result === value) return undefined;
  return typeof result === 'string'
    ? result.replaceAll('\n', `\n${' '.repeat(context.indentation)}`)
    : formatValue(context, result);
}

function formatObject(context, value) {
  const name = constructorName(value);
  const tag = tagOf(value, name);
  const shape = shapeOf(context, value, name, tag);
  if (context.level > context.depth && !shape.base)
    return `[${(name ?? 'Object: null prototype') + (tag ? ` [${tag}]` : '')}]`;
  const keys = visibleKeys(context, value, shape);
  const details = shape.hidden ? errorDetails(value) : [];
  if (!shape.entries && keys.length === 0 && details.length === 0) return shape.base ?? `${shape.open}${shape.close}`;
  if (context.level > context.depth) return shape.base;
  return formatEntries(context, value, shape, keys, details);
}

function shapeOf(context, value, name, tag) {
  if (typeof value === 'function') return { open: '{', close: '}', base: functionBase(value, name) };
  const formatter = kinds.get(host.classId(value)) ?? plain;
  return formatter(context, value, name, tag);
}

function formatEntries(context, value, shape, keys, details) {
  context.seen.push(value);
  context.lastLevel = context.level;
  const entries = shape.entries ? shape.entries() : [];
  for (const key of keys) entries.push(formatProperty(context, value, key));
  for (const [key, descriptor] of details) entries.push(`[${key}]: ${formatDescriptor(context, descriptor)}`);
  context.seen.pop();
  const reference = context.circular.indexOf(value) + 1;
  const mark = reference > 0 ? `<ref *${reference}> ` : '';
  const base = shape.base ? `${mark}${shape.base}` : '';
  const open = shape.base ? shape.open : `${mark}${shape.open}`;
  if (entries.length === 0) return `${base && `${base} `}${open}${shape.close}`;
  const text = layOut(context, entries, base, open, shape, value);
  context.written += text.length;
  if (context.written > MAX_TEXT) throw new RangeError(TOO_LARGE);
  return text;
}

// Lines, by Node's rules: the innermost three levels on one line if they fit, long arrays of short entries in
// columns, else one entry a line.
function layOut(context, entries, base, open, shape, value) {
  const before = entries.length;
  const lead = base && `${base} `;
  if (context.compact >= 1) {
    if (shape.array && before > 6) entries = inColumns(context, entries, value);
    if (context.lastLevel - context.level < context.compact && before === entries.length) {
      const start = before + context.indentation + open.length + base.length + 10;
      const line = onOneLine(context, entries, start, base);
      if (line !== undefined) return `${lead}${open} ${line} ${shape.close}`;
    }
  }
  const indent = `\n${' '.repeat(context.indentation)}`;
  return `${lead}${open}${indent}  ${entries.join(`,${indent}  `)}${indent}${shape.close}`;
}

function onOneLine(context, entries, start, base) {
  let total = entries.length + start;
  if (total + entries.length > context.breakLength || base.includes('\n')) return undefined;
  for (const entry of entries) total += entry.length;
  if (total > context.breakLength) return undefined;
  const joined = entries.join(', ');
  return joined.includes('\n') ? undefined : joined;
}

// As many columns as make the block about 2.5 times as wide as high, at most 15.
function inColumns(context, entries, value) {
  const count = context.maxArrayLength < entries.length ? entries.length - 1 : entries.length;
  const lengths = entries.slice(0, count).map((entry) => entry.length);
  const total = lengths.reduce((sum, length) => sum + length + 2, 0);
  const longest = Math.max(...lengths);
  const cell = longest + 2;
  const even = cell * 3 + context.indentation < context.breakLength && (total / cell > 5 || longest <= 6);
  if (!even) return entries;
  const biased = Math.max(cell - 3 - Math.sqrt(cell - total / entries.length), 1);
  const columns = Math.min(
    Math.round(Math.sqrt(2.5 * biased * count) / biased),
    Math.floor((context.breakLength - context.indentation) / cell),
    context.compact * 4,
    15,
  );
  if (columns <= 1) return entries;
  return [...rows(entries, lengths, count, columns, padding(value, entries.length)), ...entries.slice(count)];
}

function padding(value, count) {
  for (let index = 0; index < count; index += 1) {
    const type = typeof Object.getOwnPropertyDescriptor(value, index)?.value;
    if (type !== 'number' && type !== 'bigint') return 'padEnd';
  }
  return 'padStart';
}

function rows(entries, lengths, count, columns, pad) {
  const widths = [];
  for (let column = 0; column < columns; column += 1) {
    let width = 0;
    for (let index = column; index < count; index += columns) width = Math.max(width, lengths[index]);
    widths.push(width + 2);
  }
  const lines = [];
  for (let start = 0; start < count; start += columns) {
    const last = Math.min(start + columns, count) - 1;
    let line = '';
    for (let index = start; index < last; index += 1) line += `${entries[index]}, `[pad](widths[index - start]);
    lines.push(line + (pad === 'padStart' ? entries[last].padStart(widths[last - start] - 2) : entries[last]));
  }
  return lines;
}

// Entry points.

function inspect(value, options) {
  const given = typeof options === 'boolean' ? { showHidden: options } : (options ?? {});
  const context = {
    ...defaults,
    ...given,
    options: given,
    level: 0,
    lastLevel: 0,
    indentation: 0,
    written: 0,
    seen: [],
    circular: [],
  };
  for (const limit of ['depth', 'maxArrayLength', 'maxStringLength'])
    if (context[limit] === null) context[limit] = Infinity;
  if (context.compact === false) context.compact = 0;
  try {
    return formatValue(context, value);
  } catch (error) {
    // Too deep or too large to be shown is not the program's failure; the rest of its line still is shown.
    if (error instanceof RangeError && context.written >= 0 && isOurs(error))
      return `[${typeof value}: ${error.message}]`;
    throw error;
  }
}

const isOurs = (error) => error.message === TOO_LARGE || error.message === 'Maximum call stack size exceeded';

inspect.custom = custom;
inspect.defaultOptions = defaults;

const shown = (value) => (typeof value === 'string' ? value : inspect(value));

function formatNumeric(value, convert) {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'symbol' || typeof value === 'object') return 'NaN';
  return formatNumber(convert(value));
}

function formatAsString(value) {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return formatNumber(value);
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value !== 'object' || value === null) return String(value);
  if (host.classId(value) === errorClass || hasOwnToString(value)) return String(value);
  return inspect(value, { depth: 0 });
}

const errorClass = host.classId(new Error());

function hasOwnToString(value) {
  const method = lookUp(value, 'toString');
  return (
    typeof method === 'function' &&
    method !== Object.prototype.toString &&
    method !== Array.prototype.toString &&
    constructorName(value) !== 'Date'
  );
}

function formatJson(value) {
  try {
    return JSON.stringify(value);
  } catch (error) {
    if (/circular/i.test(error?.message ?? '')) return '[Circular]';
    throw error;
  }
}

const directives = {
  s: formatAsString,
  d: (value) => formatNumeric(value, Number),
  i: (value) => formatNumeric(value, parseInt),
  f: (value) => (typeof value === 'symbol' ? 'NaN' : formatNumber(parseFloat(value))),
  j: formatJson,
  o: (value) => inspect(value, { showHidden: true, depth: 4 }),
  O: (value) => inspect(value),
  c: () => '',
};

function format(...args) {
  if (args.length === 0) return '';
  const [first, ...rest] = args;
  let used = 0;
  let text;
  if (typeof first !== 'string') text = inspect(first);
  else if (rest.length === 0 || !first.includes('%')) text = first;
  else {
    text = first.replace(/%([sdifjoOc%])/g, (match, letter) => {
      if (letter === '%') return '%';
      if (used >= rest.length) return match;
      used += 1;
      return `${directives[letter](rest[used - 1])}`;
    });
  }
  for (; used < rest.length; used += 1) text += ` ${shown(rest[used])}`;
  return text;
}

module.exports = { inspect, format, lookUp, errorField, errorHead, constructorName };
